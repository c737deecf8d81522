"""From many updates to one: weights, and the fold.

A fold is a running sum. Updates arrive one at a time, are scaled and added in float64 and forgotten, so memory does
not grow with the number of clients. Which factors a client trains, and so what the mean is worth, is one decision with
the method (`protocol.TRAINS`): the mean of B over a shared frozen A is exactly the mean of the products B A (FFA-LoRA,
Sun et al. 2024, arXiv:2403.12313); the mean of A and the mean of B separately (`naive`, FedIT, Zhang et al. 2023,
arXiv:2305.05644) is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..common.adapter import Adapter, Vector
from ..common.protocol import Update
from ..common.settings import Aggregation


@dataclass(frozen=True, slots=True)
class Fold:
    """A weighted sum of deltas under way, in float64: `total = sum_k w_k * delta_k`, `weight = sum_k w_k`."""

    total: npt.NDArray[np.float64]
    weight: float

    @classmethod
    def empty(cls, size: int) -> Fold:
        """Nothing folded yet."""
        return cls(np.zeros(size), 0.0)

    def add(self, delta: Vector, weight: float) -> Fold:
        """Fold in one update; its weight is a number >= 0."""
        if weight == 0.0:
            return self
        return Fold(self.total + weight * delta.astype(np.float64), self.weight + weight)

    def mean(self) -> npt.NDArray[np.float64]:
        """The weighted mean; zeros when nothing with a weight came."""
        return self.total / self.weight if self.weight else self.total


def raw_weight(update: Update, rule: str) -> float:
    """A client's weight before the cap.

    `effective-groups` counts the groups whose rewards differ. Adam gives a client without any such group an update of
    the same size as the others', so counting examples would let it drown those who learned something.
    """
    match rule:
        case "effective-groups":
            return update.metrics["groups/effective"]
        case "examples":
            return float(update.num_examples)
        case _:
            return 1.0


def shares(weights: Mapping[str, float], max_share: float) -> dict[str, float]:
    """Weights scaled to sum to 1, none above `max_share` (or 1/K, where K clients with a weight cannot satisfy it).

    What a capped client gives up goes to the others in proportion. All zero where every weight is zero.
    """
    total = sum(weights[name] for name in sorted(weights))
    if total == 0:
        return dict.fromkeys(weights, 0.0)
    free: dict[str, float] = {name: weight / total for name, weight in weights.items() if weight / total > 0}
    limit = max(max_share, 1 / len(free))
    capped: dict[str, float] = {}
    while over := _above(free, limit * (1 + 1e-12)):
        capped.update((name, limit) for name in over)
        free = {name: share for name, share in free.items() if name not in over}
        room = 1 - limit * len(capped)
        scale = room / sum(free[name] for name in sorted(free)) if free else 0.0
        free = {name: share * scale for name, share in free.items()}
    return {name: capped.get(name, free.get(name, 0.0)) for name in weights}


def _above(shares: Mapping[str, float], limit: float) -> set[str]:
    return {name for name, share in shares.items() if share > limit}


def next_adapter(
    current: Adapter, weights: Mapping[str, float], delta_of: Callable[[str], Vector], settings: Aggregation
) -> Adapter:
    """The next global adapter: the current one, moved by the weighted mean of the deltas.

    Folds in sorted order of organisation: the result does not depend on who replied first.

    Args:
        weights: share of each organisation that counts (`shares`).
        delta_of: fetches one organisation's delta; called once each, so only one need be in memory.
    """
    fold = Fold.empty(current.schema.size)
    for name in sorted(weights):
        fold = fold.add(delta_of(name), weights[name])
    return current.plus(fold.mean(), settings.server_learning_rate)


def clip_norm(delta: Vector, limit: float) -> Vector:
    """Scale `delta` down to L2 norm `limit` where it is longer; the norm is taken in float64."""
    norm = l2_norm(delta)
    return delta if norm <= limit else (delta.astype(np.float64) * (limit / norm)).astype(np.float32)


def l2_norm(delta: Vector) -> float:
    """Euclidean norm in float64."""
    return float(np.linalg.norm(delta.astype(np.float64)))
