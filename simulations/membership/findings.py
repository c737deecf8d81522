"""From signals to a verdict: which of them tell prompts that were trained on from others, and how surely.

Pure functions. Several signals are looked at, so a single 95 % interval would find something in one audit of three that
has nothing to find. The verdict uses intervals whose error is divided by their number; the table shows those of 95 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ...common.analysis.one_run import OneRun, audit
from ...common.analysis.roc import FALSE_POSITIVES, Interval, auc_interval, others_needed, true_positives
from .signals import ATTACK, CONTROLS, SIGNALS, Values
from .subjects import Subjects

ERROR = 0.05
CONTROL_ERROR = 0.01
LEAKS, NOT_FOUND, NOT_COMPARABLE = "leaks", "not-found", "not-comparable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """How well one signal tells the two kinds of prompts apart."""

    signal: str
    members: float
    """Its mean over the prompts that were trained on."""
    others: float
    auc: Interval
    tpr: Interval
    """True positives at 1 % false ones."""
    tells: bool
    """Whether the interval excludes guessing, with the error divided among the signals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What an audit found."""

    signals: list[Finding]
    controls: list[Finding]
    coins: OneRun | None
    """The bound on epsilon; None without prompts that coins decided about."""
    members: int
    others: int

    @property
    def best(self) -> Finding:
        """Return the signal that an attacker would use: one that tells, else any, with the highest AUC."""
        return max(self.signals, key=lambda each: (each.tells, abs(each.auc.value - 0.5)))

    @property
    def verdict(self) -> str:
        """Return LEAKS, NOT_FOUND or NOT_COMPARABLE.

        The bound on epsilon rests on coins alone. So it also counts where the two kinds of prompts differ as such.
        """
        if self.coins and self.coins.epsilon > 0:
            return LEAKS
        if any(control.tells for control in self.controls):
            return NOT_COMPARABLE
        return LEAKS if any(signal.tells for signal in self.signals) else NOT_FOUND

    def as_json(self) -> dict[str, Any]:
        """Return the findings for JSON."""
        return {
            "verdict": self.verdict,
            "members": self.members,
            "others": self.others,
            "signals": {each.signal: _json(each) for each in self.signals},
            "controls": {each.signal: _json(each) for each in self.controls},
            "epsilon": asdict(self.coins) if self.coins else None,
        }


def findings(scores: Mapping[str, Values], subjects: Subjects, *, delta: float, seed: int) -> Findings:
    """Compare the two kinds of prompts by every signal, and guess about the coins.

    Args:
        scores: of each of `subjects.problems`, by signal and control.
        delta: the bound on epsilon is one for (epsilon, delta).
    """
    members, others, coins = map(
        subjects.places, (subjects.members, subjects.others, [coin.problem for coin in subjects.coins])
    )

    def compared(names: Mapping[str, str], error: float) -> list[Finding]:
        # both criteria of each signal may be wrong, so each has half of its share of the error
        each = error / (2 * len(names))
        return [finding(name, scores[name][members], scores[name][others], error=each) for name in names]

    return Findings(
        signals=compared(SIGNALS, ERROR),
        controls=compared(CONTROLS, CONTROL_ERROR),
        coins=audit(scores[ATTACK][coins], subjects.included, delta=delta, seed=seed) if len(coins) > 1 else None,
        members=len(members),
        others=len(others),
    )


def finding(name: str, members: Values, others: Values, *, error: float) -> Finding:
    """Compare two samples of one signal; `tells` is wrong at most 2 `error` of the time if they do not differ."""
    sure, caught = auc_interval(members, others, 1 - error), true_positives(members, others, level=1 - error)
    return Finding(
        signal=name,
        members=float(members.mean()),
        others=float(others.mean()),
        auc=auc_interval(members, others),
        tpr=true_positives(members, others),
        tells=not sure.low <= 0.5 <= sure.high or caught.low > FALSE_POSITIVES,
    )


def unresolved(found: Findings) -> bool:
    """Return whether there are too few other prompts for a lower end of the true positives above 0."""
    return found.others < others_needed()


def _json(found: Finding) -> dict[str, Any]:
    values = asdict(found)
    values.pop("signal")
    return values
