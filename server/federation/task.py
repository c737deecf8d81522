"""A client's task in an attempt at a round: where each of its fields comes from."""

from __future__ import annotations

from ...common.messages.messages import TrainTask
from ...common.settings.run_config import RunConfig
from ..aggregation.state import State


def train_task(
    state: State,
    name: str,
    *,
    number: int,
    attempt: int,
    nonce: str,
    schema_sha256: str,
    config: RunConfig,
    last_refusal: str = "",
    members: int = 0,
    summed_metrics: tuple[str, ...] = (),
) -> TrainTask:
    """Return a client's task; every field but those marked NETWORK_ONLY is the same when the attempt is repeated.

    Args:
        number: the round.
        schema_sha256: of the client's adapter.
        last_refusal: the code with which the client's last update was refused.
        members, summed_metrics: as of TrainTask, where updates are seen as a sum only.
    """
    counted_round, counted_attempt = state.counted.get(name, (0, 0))
    return TrainTask(
        federation=state.federation,
        round=number,
        attempt=attempt,
        adapter=state.adapter,
        position=state.positions.get(name, 0),
        counted_round=counted_round,
        counted_attempt=counted_attempt,
        nonce=nonce,
        schema_sha256=schema_sha256,
        config_sha256=config.sha256,
        last_refusal=last_refusal,
        members=members,
        summed_metrics=summed_metrics,
    )
