"""What private training costs, said before a run and after each round: epsilon, and how loud the noise is."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .accountant import NAME
from .spent import Charge, Spent


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """The price of a whole run for one organisation."""

    spent: float
    """Epsilon spent before the run."""
    after: float
    """Epsilon after all rounds, if each is trained once."""
    delta: float
    expected: float
    """Units of a step on average."""
    noise_ratio: float
    """Length of the noise on a step's mean gradient, in clip norms: the mean itself is at most 1 long."""
    charge: Charge
    rounds: int

    def __str__(self) -> str:
        what = "prompts" if self.charge.unit == "prompt" else f"units of {self.charge.unit}"
        before = f" ({self.spent:.2f} is spent before it)" if self.spent else ""
        return (
            f"epsilon {self.after:.2f} at delta {self.delta:g} after {self.rounds} rounds{before}: each step takes "
            f"{self.expected:.3g} of {self.charge.units} {what} on average, and its noise is {self.noise_ratio:.2g} "
            "clip norms long, where the mean gradient is 1 at most"
        )


def price_of_run(spent: Spent, charge: Charge, *, rounds: int, delta: float, parameters: int) -> Price:
    """Return the price of a run of `rounds` such charges.

    Args:
        parameters: factors that train in one round.
    """
    expected = charge.rate * charge.units
    return Price(
        spent=spent.epsilon(delta),
        after=spent.epsilon(delta, [charge] * rounds),
        delta=delta,
        expected=expected,
        noise_ratio=charge.noise_multiplier * math.sqrt(parameters) / expected,
        charge=charge,
        rounds=rounds,
    )


def statement(charge: Charge, *, epsilon: float, delta: float) -> dict[str, str | int | float]:
    """Return what an organisation may sign of a round: what was protected, how, and what all its rounds have cost.

    Args:
        charge: the round's.
        epsilon: spent in all runs together, this round included.
    """
    return {
        "epsilon": epsilon,
        "delta": delta,
        "unit": charge.unit,
        "units": charge.units,
        "clip_norm": charge.clip_norm,
        "noise_multiplier": charge.noise_multiplier,
        "sampling": "poisson",
        "sampling_rate": charge.rate,
        "steps": charge.steps,
        "neighbours": "one unit more or less",
        "accountant": NAME,
    }
