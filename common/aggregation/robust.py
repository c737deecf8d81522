"""Robust rules: what a few hostile clients can do to a round is bounded. The choices of `aggregation.rule`.

Each looks at the deltas in float64. A rule over clients gives them other weights; a rule by coordinate takes the place
of the mean. None of them stops a stealthy backdoor, and where honest clients differ much, each costs some learning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..plugins import Table

Wide = npt.NDArray[np.float64]
WEISZFELD_STEPS = 50
NEAR = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One robust rule, over clients or by coordinate; with neither function it is the weighted mean."""

    reweigh: Callable[[Wide, Wide, int], Wide] | None = None
    """(inner products of the deltas (K, K), weights (K,), hostile) -> weights (K,) with the sum they had."""
    combine: Callable[[Wide, int], Wide] | None = None
    """(deltas (K, n), hostile) -> (n,), by coordinate: called with some coordinates at a time."""
    updates_needed: Callable[[int], int] = lambda hostile: 1
    """Minimum number of updates K to tolerate so many hostile clients."""
    summary: str
    """One line for people."""

    @property
    def by_coordinate(self) -> bool:
        """Whether it needs coordinates that mean the same in all updates."""
        return self.combine is not None


def multi_krum(inner: Wide, weights: Wide, hostile: int) -> Wide:
    """Keep the K - f deltas that lie closest to their neighbours (Blanchard et al. 2017, NeurIPS, Multi-Krum).

    A delta's score is the sum of its squared distances to the K - f - 2 nearest others. With K >= 2 f + 3 none of f
    hostile ones can move the mean of those kept far.

    Args:
        inner: inner products of the deltas, shape (K, K).
        weights: shape (K,).

    Returns:
        The weights, zero for the deltas left out, with the sum they had.
    """
    count = len(inner)
    kept = np.zeros(count, dtype=bool)
    kept[np.argsort(krum_scores(inner, hostile), kind="stable")[: count - hostile]] = True
    return _rescaled(np.where(kept, weights, 0.0), weights.sum())


def krum_scores(inner: Wide, hostile: int) -> Wide:
    """Return each delta's sum of squared distances to its K - f - 2 nearest others, shape (K,)."""
    count, square = len(inner), np.diag(inner)
    distances = np.maximum(square[:, None] + square[None, :] - 2 * inner, 0.0)
    np.fill_diagonal(distances, np.inf)
    return np.sort(distances, axis=1)[:, : count - hostile - 2].sum(axis=1)


def geometric_median(inner: Wide, weights: Wide, hostile: int) -> Wide:
    """The point whose weighted distances to the deltas sum to the least, as weights of the deltas (RFA, Pillutla et al.
    2022, arXiv:1912.13445): smoothed Weiszfeld steps w_k / max(d_k, nu), nu a billionth of the longest delta.

    Bounded as long as less than half of the weight is hostile. `hostile` is not used.
    """
    mixture = weights / weights.sum()
    floor = NEAR * float(np.sqrt(np.diag(inner).max())) or NEAR
    for _ in range(WEISZFELD_STEPS):
        squares = np.diag(inner) - 2 * inner @ mixture + mixture @ inner @ mixture
        pull = weights / np.maximum(np.sqrt(np.maximum(squares, 0.0)), floor)
        mixture = pull / pull.sum()
    return mixture * weights.sum()


def trimmed_mean(block: Wide, hostile: int) -> Wide:
    """Per coordinate, the mean without the f largest and the f smallest (Yin et al. 2018, arXiv:1803.01498).

    Args:
        block: shape (K, n).
    """
    count = len(block)
    return np.sort(block, axis=0)[hostile : count - hostile].mean(axis=0)


def median(block: Wide, hostile: int) -> Wide:
    """Per coordinate, the median (Yin et al. 2018). `hostile` is not used."""
    return np.median(block, axis=0)


def _rescaled(weights: Wide, total: float) -> Wide:
    return weights * (total / weights.sum()) if weights.sum() > 0 else weights


def _complaint(entry: object) -> str:
    if not isinstance(entry, Rule):
        return "is not a fedgrpo.common.aggregation.robust.Rule"
    if (entry.reweigh is None) == (entry.combine is None):
        return "must have one function, `reweigh` or `combine`"
    return ""


RULES: Table[Rule] = Table(
    "fedgrpo.robust_rules",
    {
        "mean": Rule(summary="the weighted mean: not robust"),
        "trimmed-mean": Rule(
            combine=trimmed_mean,
            updates_needed=lambda hostile: 2 * hostile + 1,
            summary="mean without the `hostile` largest and smallest (Yin et al. 2018)",
        ),
        "median": Rule(combine=median, summary="median (Yin et al. 2018)"),
        "multi-krum": Rule(
            reweigh=multi_krum,
            updates_needed=lambda hostile: 2 * hostile + 3,
            summary="mean of the updates closest to their neighbours (Blanchard et al. 2017)",
        ),
        "geometric-median": Rule(
            reweigh=geometric_median,
            summary="point with the least sum of distances to the updates (Pillutla et al. 2022)",
        ),
    },
    _complaint,
)
"""The choices of `aggregation.rule`."""
