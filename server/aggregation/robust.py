"""The updates as robust rules look at them, read in blocks: inner products of all pairs, and coordinates.

The rules themselves are in `common.aggregation.robust`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from .products import BlockReader, Slices

Wide = npt.NDArray[np.float64]
BLOCK = 1 << 16


def gram(deltas: Sequence[Slices]) -> Wide:
    """Inner products of all pairs, shape (K, K), in float64, read in blocks."""
    inner = np.zeros((len(deltas), len(deltas)))
    size, reader = deltas[0].size, BlockReader(len(deltas), BLOCK)
    for start in range(0, size, BLOCK):
        block = reader.read(deltas, start, min(start + BLOCK, size))
        inner += block @ block.T
    return inner


def by_coordinate(combine: Callable[[Wide, int], Wide], deltas: Sequence[Slices], factors: Wide, hostile: int) -> Wide:
    """A rule's move, shape (size,), of the deltas times their factors, read in blocks."""
    move, reader = np.empty(deltas[0].size), BlockReader(len(deltas), BLOCK)
    for start in range(0, move.size, BLOCK):
        block = reader.read(deltas, start, min(start + BLOCK, move.size))
        block *= factors[:, None]
        move[start : start + BLOCK] = combine(block, hostile)
    return move
