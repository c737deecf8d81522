"""The updates as robust rules look at them, read in blocks: inner products of all pairs, and coordinates.

The rules themselves are in `common.aggregation.robust`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from .products import Slices

Wide = npt.NDArray[np.float64]
BLOCK = 1 << 16


def gram(deltas: Sequence[Slices]) -> Wide:
    """Inner products of all pairs, shape (K, K), in float64, read in blocks."""
    inner = np.zeros((len(deltas), len(deltas)))
    for start in range(0, deltas[0].size, BLOCK):
        block = np.stack([delta[start : start + BLOCK] for delta in deltas]).astype(np.float64)
        inner += block @ block.T
    return inner


def by_coordinate(combine: Callable[[Wide, int], Wide], deltas: Sequence[Slices], factors: Wide, hostile: int) -> Wide:
    """A rule's move, shape (size,), of the deltas times their factors, read in blocks."""
    move = np.empty(deltas[0].size)
    for start in range(0, move.size, BLOCK):
        block = np.stack([delta[start : start + BLOCK] for delta in deltas]) * factors[:, None]
        move[start : start + BLOCK] = combine(block, hostile)
    return move
