"""One round of federated learning where only the sum of the updates is seen: (state, sum, settings) -> (state, ...)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ...common.adapter.adapter import l2_norm
from ...common.adapter.schema import Vector, whole_vector
from ...common.settings.run_config import RunConfig
from .aggregate import Diagnostics, ReceivedUpdate, next_adapter
from .products import ClientUpdate, Wide
from .state import State

SUM = "(sum)"
"""Stands for all members of a sum, where a table has a line per organisation. No organisation can have this name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SummedUpdates:
    """The sum over the members of a round."""

    members: tuple[str, ...]
    update: Wide
    """sum_k w_k delta_k over the factors that trained, shape (size_of(factors),)."""
    weight: float
    """sum_k w_k, each w_k from 0 to 1."""
    clipped: int
    """Members whose update was longer than privacy.clip-norm."""
    metrics: dict[str, float]
    """Means over the members of what all of them report."""


def mean_update(state: State, total: SummedUpdates, settings: RunConfig) -> ReceivedUpdate:
    """Return the members' mean, sum_k w_k delta_k / sum_k w_k, as if one client had sent it; zero without weight."""
    factors = settings.method.trains_in(state.round + 1)
    mean: Vector = (total.update / total.weight if total.weight > 0 else 0 * total.update).astype(np.float32)
    delta = whole_vector(state.adapter.schema, mean, factors)
    return ReceivedUpdate(
        delta=delta,
        schema=state.adapter.schema,
        norm=l2_norm(delta),
        weight=total.weight,
        steps=settings.train.steps_per_round,
        examples=settings.prompts_per_round * len(total.members),
        metrics=total.metrics,
    )


def aggregate_sum(state: State, total: SummedUpdates, settings: RunConfig) -> tuple[State, Diagnostics]:
    """Return the state after a round whose updates were seen as a sum only, and what it counted.

        move    = sum_k w_k delta_k / sum_k w_k
        adapter = rounded(adapter + server_optimizer(move))

    The same function for masked and for plain sums, and for the same sum the same bytes. Shares are not capped: a
    weight is at most 1, and nobody sees it.
    """
    update = mean_update(state, total, settings)
    given = {SUM: ClientUpdate(float(total.weight > 0), 1.0, update.schema, update.delta)}
    step = next_adapter(state.adapter, state.memory, given, settings.named_aggregation, settings.compression.down)
    used = {name: state.positions.get(name, 0) + settings.prompts_per_round for name in total.members}
    counted = dict.fromkeys(total.members, (state.round + 1, state.voids + 1))
    after = replace(
        state,
        round=state.round + 1,
        voids=0,
        adapter=step.adapter,
        memory=step.memory,
        positions={**state.positions, **used},
        counted={**state.counted, **counted},
    )
    return after, Diagnostics(
        shares={SUM: 1.0},
        capped={},
        clipped={SUM: total.clipped > 0},
        error=0.0 if len(settings.method.trains_in(state.round + 1)) == 1 else None,
        update_norm=l2_norm(after.adapter.minus(state.adapter)),
    )
