"""Accuracies with intervals from counts, and the decomposition of a rise in accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ..messages.messages import Tally

Z95 = 1.959963984540054


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Accuracies over one set of problems; shares in 0..1, length in tokens."""

    problems: int
    strict: float
    lenient: float
    truncated: float
    mean_length: float
    gain: float
    """Strict accuracy above the base model's on the same problems."""
    gain_low: float
    gain_high: float

    @property
    def base(self) -> float:
        """Strict accuracy of the base model on the same problems."""
        return self.strict - self.gain

    def __str__(self) -> str:
        return f"{self.strict:.1%} of {self.problems}, {points(self.gain)} over the base model ({self.interval})"

    @property
    def interval(self) -> str:
        """The 95 % interval of the gain, in words."""
        return f"95 % interval {points(self.gain_low)} to {points(self.gain_high)}"


def points(difference: float) -> str:
    """Return a difference of two shares as text in percentage points.

    >>> points(0.647)
    '+64.7 points'
    """
    return f"{100 * difference:+.1f} points"


def fall_in_words(decoding: str, found: Score) -> str:
    """Return a sentence that says that an accuracy fell; empty where it did not.

    >>> fall_in_words("Greedy", score(Tally(problems=100, correct=40, gained=5, lost=25)))
    'Greedy accuracy fell from 60.0% to 40.0% (-20.0 points, 95 % interval -29.6 points to -9.6 points).'
    """
    if found.gain >= 0:
        return ""
    unsure = "; it includes 0" if found.gain_high >= 0 else ""
    change = f"{points(found.gain)}, {found.interval}{unsure}"
    return f"{decoding} accuracy fell from {found.base:.1%} to {found.strict:.1%} ({change})."


def score(tally: Tally) -> Score:
    """Return the accuracies of a tally, with the paired 95 % interval of the gain."""
    n = max(tally.problems, 1)
    low, high = paired_interval(tally.problems, tally.gained, tally.lost)
    return Score(
        problems=tally.problems,
        strict=tally.correct / n,
        lenient=tally.lenient / n,
        truncated=tally.truncated / n,
        mean_length=tally.tokens / n,
        gain=(tally.gained - tally.lost) / n,
        gain_low=low,
        gain_high=high,
    )


def paired_interval(n: float, gained: float, lost: float) -> tuple[float, float]:
    r"""Return the 95 % interval of a difference of two paired proportions (Agresti & Min 2005, doi:10.1002/sim.1781).

        d = (b - c) / (n + 2),   se = sqrt((b + c) - (b - c)^2 / (n + 2)) / (n + 2),
        with 1/2 added to each of the four cells of the 2 x 2 table

    The plain Wald interval has width 0 when no problem changed sides; this one never has.

    Args:
        gained: problems that were wrong and are right.
        lost: problems that were right and are wrong.
    """
    if n == 0:
        return 0.0, 0.0
    total, b, c = n + 2, gained + 0.5, lost + 0.5
    difference = (b - c) / total
    spread = math.sqrt(b + c - (b - c) ** 2 / total) / total
    return max(-1.0, difference - Z95 * spread), min(1.0, difference + Z95 * spread)


@dataclass(frozen=True, slots=True, kw_only=True)
class Climb:
    """A rise in accuracy split into two parts that sum to it."""

    by_mix: float
    """From answering in another style (Kitagawa 1955: change of shares at the mean accuracy of each style)."""
    within: float
    """From answering better within a style (change of accuracy at the mean share of each style)."""


def climb_by_style(before: Mapping[str, Tally], after: Mapping[str, Tally]) -> Climb:
    """Split the rise of strict accuracy by answer style.

    A style that occurs only before or only after has no second accuracy; its change counts as change of mix.
    """
    total_before = sum(tally.problems for tally in before.values()) or 1
    total_after = sum(tally.problems for tally in after.values()) or 1
    by_mix = within = 0.0
    for style in sorted(set(before) | set(after)):
        old, new = before.get(style, Tally()), after.get(style, Tally())
        p0, p1 = old.problems / total_before, new.problems / total_after
        a0 = old.correct / old.problems if old.problems else None
        a1 = new.correct / new.problems if new.problems else None
        first = a0 if a0 is not None else (a1 or 0.0)
        last = a1 if a1 is not None else first
        by_mix += (p1 - p0) * (first + last) / 2
        within += (last - first) * (p0 + p1) / 2
    return Climb(by_mix=by_mix, within=within)
