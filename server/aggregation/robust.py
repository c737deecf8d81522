"""Robust rules, which bound the influence of a few malicious clients on a round.

Each reads the deltas in float64. Two select or weight whole clients, two work by coordinate. None of them stops a
stealthy backdoor, and each costs some learning if honest clients differ much.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from .products import Slices

Wide = npt.NDArray[np.float64]
BLOCK = 1 << 16
WEISZFELD_STEPS = 50
NEAR = 1e-9


def gram(deltas: Sequence[Slices]) -> Wide:
    """Return the inner products of all pairs, shape (K, K), in float64, read in blocks."""
    found = np.zeros((len(deltas), len(deltas)))
    for start in range(0, deltas[0].size, BLOCK):
        block = np.stack([delta[start : start + BLOCK] for delta in deltas]).astype(np.float64)
        found += block @ block.T
    return found


def multi_krum(inner: Wide, weights: Wide, hostile: int) -> Wide:
    """Keep the K - f deltas that lie closest to their neighbours (Blanchard et al. 2017, NeurIPS, Multi-Krum).

    A delta's score is the sum of its squared distances to the K - f - 2 nearest others. With K >= 2 f + 3 none of f
    hostile ones can move the mean of those kept far.

    Args:
        inner: `gram` of the deltas, shape (K, K).
        weights: shape (K,).

    Returns:
        The weights, zero for the deltas left out, with the sum they had.
    """
    count, square = len(inner), np.diag(inner)
    distances = np.maximum(square[:, None] + square[None, :] - 2 * inner, 0.0)
    np.fill_diagonal(distances, np.inf)
    scores = np.sort(distances, axis=1)[:, : count - hostile - 2].sum(axis=1)
    kept = np.zeros(count, dtype=bool)
    kept[np.argsort(scores, kind="stable")[: count - hostile]] = True
    return _rescaled(np.where(kept, weights, 0.0), weights.sum())


def geometric_median(inner: Wide, weights: Wide, hostile: int) -> Wide:
    """The point whose weighted distances to the deltas sum to the least, as weights of the deltas (RFA, Pillutla et al.
    2022, arXiv:1912.13445): smoothed Weiszfeld steps w_k / max(d_k, nu), nu a billionth of the longest delta.

    Bounded as long as less than half of the weight is malicious. `hostile` is not used.
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


CHOOSING: Mapping[str, Callable[[Wide, Wide, int], Wide]] = MappingProxyType(
    {"multi-krum": multi_krum, "geometric-median": geometric_median}
)
"""Rules that change the clients' weights."""
BY_COORDINATE: Mapping[str, Callable[[Wide, int], Wide]] = MappingProxyType(
    {"trimmed-mean": trimmed_mean, "median": median}
)
"""Rules that replace the mean. Clients with a weight count equally in them."""


def by_coordinate(rule: str, deltas: Sequence[Slices], factors: Wide, hostile: int) -> Wide:
    """Return a rule's move, shape (size,), of the deltas times their factors, read in blocks."""
    found = np.empty(deltas[0].size)
    for start in range(0, found.size, BLOCK):
        block = np.stack([delta[start : start + BLOCK] for delta in deltas]) * factors[:, None]
        found[start : start + BLOCK] = BY_COORDINATE[rule](block, hostile)
    return found


def _rescaled(weights: Wide, total: float) -> Wide:
    return weights * (total / weights.sum()) if weights.sum() > 0 else weights
