"""How well a score tells members from others: area under the ROC curve and true positives at few false ones.

Pure functions of two samples of scores, with intervals whose coverage is tested. A higher score says member.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from .binomial import exact_high, exact_low, tails

Values = npt.NDArray[np.float64]

LEVEL = 0.95
FALSE_POSITIVES = 0.01
"""The share of false positives at which true ones are counted, after Carlini et al. 2022 (arXiv:2112.03570)."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with both ends of its interval."""

    value: float
    low: float
    high: float


def auc(members: Values, others: Values) -> float:
    """Return the probability that a member has a higher score than another; a tie is half of it (Mann and Whitney).

    >>> auc(np.array([2.0, 3.0]), np.array([1.0, 2.0]))
    0.875
    """
    return float(_above(members, others).mean())


def auc_interval(members: Values, others: Values, level: float = LEVEL) -> Interval:
    r"""Return the area under the ROC curve with its interval: each end is the farther one of two methods.

    DeLong et al. 1988 take the variance from the scores themselves, which is right for any distribution but too small
    where nearly all pairs are in order, and 0 where all are. Newcombe 2006 (method 5, doi:10.1002/sim.2324) inverts a
    test of each area A, with a variance that depends on A alone and does not vanish:

        |auc - A| <= z sqrt( A (1 - A) / (m n) * (1 + (N - 1) ((1 - A) / (2 - A) + A / (1 + A))) ),   N = (m + n) / 2

    Args:
        members: m >= 2 scores.
        others: n >= 2 scores.
    """
    value, z = auc(members, others), NormalDist().inv_cdf((1 + level) / 2)
    half = z * _delong_variance(members, others) ** 0.5
    low, high = _newcombe(value, len(members), len(others), z)
    return Interval(value, max(0.0, min(low, value - half)), min(1.0, max(high, value + half)))


def true_positives(
    members: Values, others: Values, *, false_positives: float = FALSE_POSITIVES, level: float = LEVEL
) -> Interval:
    """Return the share of members above the threshold that `false_positives` of the others pass, with its interval.

    The threshold is itself an estimate. So the lower end takes the lowest of the others' scores that lets no more than
    `false_positives` pass with confidence, the upper end the highest that lets no fewer pass; at each the members above
    it have Clopper and Pearson's bound. Both parts share the error, so the interval holds at least as often as it says,
    for any distribution. With too few others (`others_needed`) nothing can be said, and the lower end is 0.
    """
    ordered, error = np.sort(others)[::-1], (1 - level) / 4
    value = float((members > _threshold(ordered, int(false_positives * len(others)))).mean())
    sure = _passing_surely_at_most(len(others), false_positives, error)
    low = 0.0 if sure is None else exact_low(_count_above(members, _threshold(ordered, sure)), len(members), error)
    loose = _passing_surely_at_least(len(others), false_positives, error)
    high = 1.0 if loose is None else exact_high(_count_from(members, ordered[loose]), len(members), error)
    return Interval(value, min(low, value), max(high, value))


def others_needed(*, false_positives: float = FALSE_POSITIVES, level: float = LEVEL) -> int:
    """Return how many others `true_positives` needs for a lower end above 0.

    >>> others_needed()
    437
    """
    return int(np.ceil(np.log((1 - level) / 4) / np.log1p(-false_positives)))


def curve(members: Values, others: Values) -> tuple[Values, Values]:
    """Return the ROC curve as (shares of false positives, shares of true positives), from (0, 0) to (1, 1)."""
    thresholds = np.unique(np.concatenate([members, others]))[::-1]
    false, true = (
        len(scores) - np.searchsorted(np.sort(scores), thresholds, side="left") for scores in (others, members)
    )
    zero = np.zeros(1)
    return np.concatenate([zero, false / len(others)]), np.concatenate([zero, true / len(members)])


def _above(members: Values, others: Values) -> Values:
    """Return, for each member, the share of others below it; ties count half."""
    ordered = np.sort(others)
    below, up_to = (np.searchsorted(ordered, members, side=side) for side in ("left", "right"))
    return (below + up_to) / (2 * len(others))


def _delong_variance(members: Values, others: Values) -> float:
    of_members, of_others = _above(members, others), _above(others, members)
    return float(of_members.var(ddof=1) / len(members) + of_others.var(ddof=1) / len(others))


def _newcombe(value: float, members: int, others: int, z: float) -> tuple[float, float]:
    """Return the areas farthest below and above `value` that the test does not refuse, by halving."""

    def refused(area: float) -> bool:
        spread = 1 + ((members + others) / 2 - 1) * ((1 - area) / (2 - area) + area / (1 + area))
        return abs(value - area) > z * (area * (1 - area) * spread / (members * others)) ** 0.5

    return _edge(refused, 0.0, value), _edge(refused, 1.0, value)


def _edge(refused: Callable[[float], bool], outside: float, inside: float) -> float:
    for _ in range(60):
        middle = (outside + inside) / 2
        outside, inside = (middle, inside) if refused(middle) else (outside, middle)
    return inside


def _threshold(ordered: Values, passing: int) -> float:
    """Return the score that at most `passing` of the others exceed; they are in falling order."""
    return float(ordered[min(passing, len(ordered) - 1)])


def _count_above(scores: Values, threshold: float) -> int:
    return int((scores > threshold).sum())


def _count_from(scores: Values, threshold: float) -> int:
    return int((scores >= threshold).sum())


def _passing_surely_at_most(others: int, share: float, error: float) -> int | None:
    """Return the largest k such that more than `share` of all others exceed the (k+1)th highest only with P <= error.

    The share that exceeds the (k+1)th highest of n scores is Beta(k + 1, n - k), and it is above x with probability
    P[Binomial(n, x) <= k]. None if even the highest score is not sure enough.
    """
    allowed = np.flatnonzero(1 - tails(others, share)[1 : int(others * share) + 2] <= error)
    return int(allowed[-1]) if len(allowed) else None


def _passing_surely_at_least(others: int, share: float, error: float) -> int | None:
    """Return the smallest index k of the falling scores that fewer than `share` of all reach only with P <= error.

    None if there are too few others.
    """
    loose = np.flatnonzero(tails(others, share)[1:] <= error)
    return int(loose[0]) if len(loose) else None
