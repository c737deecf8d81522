"""The privacy budget an organisation has spent: on the disk, over all runs, written before the work it is spent on.

Every line counts, whatever run it belongs to and however it ended: a resume, a new run or changed data never lower what
is spent, because a unit may have been in all of them. Who starts anew with other people's data gives the learner a new
folder.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ....common.errors import ConfigError, PolicyError, RunError
from ....common.storage.jsonl import append_line, read_lines
from .accountant import Mechanism, epsilon

FILE = "privacy.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What one training costs."""

    federation: str
    round: int
    attempt: int
    noise_multiplier: float
    clip_norm: float
    rate: float
    """Probability with which a step takes each unit."""
    steps: int
    units: int
    unit: str
    """What a unit is: `prompt`, or the column that names it."""
    data: str
    """SHA-256 of the prompts, for the organisation's own records."""

    @property
    def priced(self) -> tuple[Mechanism, int]:
        """Return the mechanism, and how often it was used."""
        return Mechanism(self.noise_multiplier, self.rate), self.steps


class Spent:
    """The budget of one organisation."""

    def __init__(self, path: Path | None, max_epsilon: float = 0.0) -> None:
        """Read what is spent. Without a path it is kept in memory, for a rehearsal.

        Args:
            max_epsilon: no training may raise epsilon above this; 0 sets no limit.

        Raises:
            ConfigError: the file cannot be read, or is damaged.
        """
        self._path, self._max_epsilon = path, max_epsilon
        self._charges = _read(path) if path else []

    @property
    def charges(self) -> tuple[Charge, ...]:
        """Return every charge, oldest first."""
        if self._path is not None:
            self._charges = _read(self._path)  # another worker process may serve the same client
        return tuple(self._charges)

    def epsilon(self, delta: float, planned: Iterable[Charge] = ()) -> float:
        """Return the epsilon of everything that was charged, and of what is planned."""
        return epsilon([charge.priced for charge in (*self.charges, *planned)], delta)

    def charge(self, charge: Charge, delta: float) -> float:
        """Write a charge down, before the work it is for, and return the epsilon that is spent with it.

        Raises:
            PolicyError: it would exceed the budget; nothing is written.
            OSError: it cannot be written.
        """
        after = self.epsilon(delta, [charge])
        if 0 < self._max_epsilon < after:
            raise PolicyError(
                "policy.dp.max-epsilon",
                f"Round {charge.round} of {charge.federation} would bring epsilon to {after:.3f} at delta {delta:g}; "
                f"{self.epsilon(delta):.3f} is spent, in all runs together, and this organisation's policy has "
                f"max-epsilon = {self._max_epsilon:g}. Nothing is trained.",
            )
        if self._path is None:
            self._charges.append(charge)
        else:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            append_line(self._path, asdict(charge))
        return after


def _read(path: Path) -> list[Charge]:
    try:
        return [_charge(entry) for entry in read_lines(path)]
    except (OSError, RunError, TypeError) as error:
        raise ConfigError(
            f"The record of the privacy budget, {path}, cannot be read: {error} Restore it from a backup. If you move "
            "it away, what was spent is forgotten, and epsilon is stated too low from then on."
        ) from error


def _charge(entry: dict[str, Any]) -> Charge:
    return Charge(**entry)
