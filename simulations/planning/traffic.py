"""Traffic in bytes, from the adapter's schema and its codecs: the messages of a run, packed without their numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from flwr.app import RecordDict

from ...common.adapter.adapter import Adapter
from ...common.adapter.compression import is_exact, most_bytes
from ...common.adapter.schema import AdapterSchema, Vector
from ...common.messages import wire
from ...common.messages.messages import TaskId, TrainTask, Update, run_schema
from ...common.messages.metric_names import TRAIN_METRICS, reward_metrics
from ...common.settings.run_config import RunConfig
from ...server.aggregation.state import State
from ...server.federation.evaluation import due
from ...server.federation.task import train_task
from ..engine.simulated_clients import client_rank, client_rewards
from .shapes import Shape

CHUNK, FRAME, SEPARATOR = 5 * 1024 * 1024, 78, 3
"""Flower sends an array in chunks. Each has a frame with its length in digits, and its hash in the array's list."""
NOTHING: Vector = np.zeros(0, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes over the whole run, of all clients, without transport framing; by round if rounds differ."""

    up: tuple[int, ...]
    """Bytes of each round's updates."""
    down: tuple[int, ...]
    """Bytes of each round's tasks."""
    evaluation_down: int
    """Bytes of the adapters sent for evaluation."""
    exact: bool
    """Else they are the most there can be: most codecs need fewer where the numbers are alike."""


def traffic(config: RunConfig, shape: Shape) -> Traffic:
    """Compute the bytes that the run's rounds and evaluations send.

    Every client of the cohort replies at the first try. With a cohort smaller than the federation, and clients of
    different ranks, it is what clients send on average.
    """
    whole = run_schema(config, shape.modules(config.adapter.target_modules))
    numbers = config.simulation.taking_part
    schemas = {k: whole.at_rank(client_rank(config, k) or whole.rank) for k in numbers}
    share = min(1.0, (config.federation.clients_per_round or len(numbers)) / len(numbers))
    rounds = range(1, config.federation.rounds + 1)
    task = sum(_task_bytes(config, schemas[k]) for k in numbers)
    cycle = config.method.trains
    updates = [sum(_update_bytes(config, k, schemas[k], factors) for k in numbers) for factors in cycle]
    return Traffic(
        up=tuple(round(share * updates[(number - 1) % len(cycle)]) for number in rounds),
        down=tuple(round(share * task) for _ in rounds),
        evaluation_down=evaluations(config) * task,
        exact=is_exact(config.compression.up) and is_exact(config.compression.down),
    )


def evaluations(config: RunConfig) -> int:
    """Return how often all held-out problems are answered.

    With a gate, also sampled after every round: a candidate's evaluation by the gate is that of its round.
    """
    decodings = [
        {*due(config, number), *(("sampled",) if config.gate.enabled else ())}
        for number in range(config.federation.rounds + 1)
    ]
    return sum(map(len, decodings))


def _task_bytes(config: RunConfig, schema: AdapterSchema) -> int:
    codec = config.compression.down
    content = wire.record_of(_task(config, schema), array=wire.packed(NOTHING, codec))
    return _with_numbers(content, schema.size, most_bytes(schema.size, codec))


def _update_bytes(config: RunConfig, number: int, schema: AdapterSchema, factors: tuple[str, ...]) -> int:
    codec, size = config.compression.up, schema.size_of(factors)
    names = TRAIN_METRICS + reward_metrics(tuple(reward.name for reward in client_rewards(config)[number]))
    update = Update(
        delta=NOTHING,
        num_steps=1,
        num_examples=1,
        metrics=dict.fromkeys(names, 0.5),
        task=TaskId.of(_task(config, schema)),
    )
    content = wire.record_of(update, array=wire.packed(NOTHING, codec))
    return _with_numbers(content, size, most_bytes(size, codec, config.compression.top_share))


def _with_numbers(content: RecordDict, size: int, payload: int) -> int:
    """Return the bytes of a message, from the message without its array's numbers, their count, and their bytes."""
    chunks = [min(CHUNK, payload - start) for start in range(0, payload, CHUNK)]
    frames = sum(FRAME + len(str(chunk)) for chunk in chunks) + SEPARATOR * (len(chunks) - 1)
    return wire.wire_bytes(content) + payload + frames + len(str(size)) - 1


def _task(config: RunConfig, schema: AdapterSchema) -> TrainTask:
    """Return the first task of a run, as the server makes it."""
    adapter = Adapter(schema, np.zeros(schema.size, np.float32))
    state = State(federation=f"fed-{'0' * 8}", base_model_sha256="", round=0, adapter=adapter)
    return train_task(state, "", number=1, attempt=1, nonce="0" * 16, schema_sha256=schema.sha256, config=config)
