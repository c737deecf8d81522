"""From many updates to one: weights, and the fold.

What the clients train and how the server folds it are one decision, the method (`protocol.TRAINS`, `FOLDS`). The mean
of B over a shared frozen A is exactly the mean of the products B A (`ffa`: FFA-LoRA, Sun et al. 2024,
arXiv:2403.12313); the mean of A and the mean of B separately (`naive`: FedIT, Zhang et al. 2023, arXiv:2305.05644) is
not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from ..common.adapter import Adapter, Vector
from ..common.protocol import Update
from ..common.settings import Aggregation

DeltaOf = Callable[[str], Vector]
"""Fetches one organisation's delta. Called once each, so only one need be in memory."""


def weighted_mean(weights: Mapping[str, float], delta_of: DeltaOf, size: int) -> npt.NDArray[np.float64]:
    """Average the deltas in proportion to their weights (McMahan et al. 2017, arXiv:1602.05629).

        mean = sum_k w_k * delta_k / sum_k w_k

    Sums in float64 and in sorted order of organisation, so the result does not depend on who replied first. Zeros where
    no delta has a weight; a delta without one is not fetched.
    """
    total, weight = np.zeros(size), 0.0
    for name in sorted(weights):
        if weights[name] > 0:
            total += weights[name] * delta_of(name).astype(np.float64)
            weight += weights[name]
    return total / weight if weight else total


FOLDS = {"ffa": weighted_mean, "naive": weighted_mean}
"""How the server folds, by method."""


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
    current: Adapter, weights: Mapping[str, float], steps: Mapping[str, int], delta_of: DeltaOf, settings: Aggregation
) -> Adapter:
    """The next global adapter: the current one, moved by the fold of the deltas times the server's learning rate.

    Clients that took different numbers of steps tau_k moved for different lengths of time, and who took more would
    pull the mean towards its own optimum. Then the deltas are normalised (FedNova, Wang et al. 2020, arXiv:2007.07481,
    eq. 8), with the mean number of steps as the effective one:

        move = (sum_k p_k tau_k) * fold_k(p_k, delta_k / tau_k)

    Args:
        weights: share p_k of each organisation that counts (`shares`).
        steps: optimizer steps tau_k each of them took.
    """
    fold, counted = FOLDS[settings.method], {steps[name] for name, share in weights.items() if share > 0}
    if len(counted) > 1:
        move = fold(weights, lambda name: delta_of(name) / np.float32(steps[name]), current.schema.size)
        move *= sum(weights[name] * steps[name] for name in sorted(weights))
    else:
        move = fold(weights, delta_of, current.schema.size)
    return current.plus(move, settings.server_learning_rate)
