"""Traffic in bytes, from the adapter's schema and its codecs: the messages of a run, packed without their numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from flwr.app import RecordDict

from ...common.adapter.methods import METHODS
from ...common.adapter.schema import AdapterSchema, Vector
from ...common.messages import wire
from ...common.messages.compression import most_bytes
from ...common.messages.messages import TRAIN_METRICS, reward_metrics, run_schema
from ...common.settings.run_config import RunConfig
from ..engine.simulated_clients import client_rank, client_rewards
from .shapes import Shape

CHUNK, FRAME, SEPARATOR = 5 * 1024 * 1024, 78, 3
"""Flower sends an array in chunks. Each has a frame with its length in digits, and its hash in the array's list."""
WIDTHS = {"fp32": 4, "bf16": 2}
EXACT = tuple(WIDTHS)
"""Codecs whose size does not depend on the numbers."""
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
    """Else they are the most there can be: `int8`, `int4` and `top-k` are shorter where the numbers are alike."""


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
    cycle = METHODS[config.aggregation.method].trains
    updates = [sum(_update_bytes(config, k, schemas[k], factors) for k in numbers) for factors in cycle]
    return Traffic(
        up=tuple(round(share * updates[(number - 1) % len(cycle)]) for number in rounds),
        down=tuple(round(share * task) for _ in rounds),
        evaluation_down=evaluations(config) * task,
        exact=config.compression.up in EXACT and config.compression.down in EXACT,
    )


def evaluations(config: RunConfig) -> int:
    """Return how often all held-out problems are answered: greedy and sampled before and after, sampled in between, and
    once a round for the gate."""
    rounds, every = config.federation.rounds, config.evaluation.every
    between = len([n for n in range(1, rounds) if every and n % every == 0])
    if not config.gate.enabled:
        return 4 + between
    return 4 + rounds - 1  # a candidate's evaluation by the gate is that of its round


def _task_bytes(config: RunConfig, schema: AdapterSchema) -> int:
    codec = config.compression.down
    header = {"position": 0, "counted-round": 0, "counted-attempt": 0, "last-refusal": ""}
    content = wire.pack({**_echo(config, schema), **header}, array=wire.packed(NOTHING, codec))
    return _with_numbers(
        content, schema.size, most_bytes(schema.size, codec) if codec not in EXACT else WIDTHS[codec] * schema.size
    )


def _update_bytes(config: RunConfig, number: int, schema: AdapterSchema, factors: tuple[str, ...]) -> int:
    codec, size = config.compression.up, schema.size_of(factors)
    names = TRAIN_METRICS + reward_metrics(tuple(reward.name for reward in client_rewards(config)[number]))
    counts = {"num-steps": 1, "num-examples": 1}
    content = wire.pack({**_echo(config, schema), **counts}, array=wire.packed(NOTHING, codec))
    content = wire.with_metrics(content, dict.fromkeys(names, 0.5))
    most = most_bytes(size, codec, config.compression.top_share)
    return _with_numbers(content, size, most if codec not in EXACT else WIDTHS[codec] * size)


def _with_numbers(content: RecordDict, size: int, payload: int) -> int:
    """Return the bytes of a message, from the message without its array's numbers, their count, and their bytes."""
    chunks = [min(CHUNK, payload - start) for start in range(0, payload, CHUNK)]
    frames = sum(FRAME + len(str(chunk)) for chunk in chunks) + SEPARATOR * (len(chunks) - 1)
    return wire.wire_bytes(content) + payload + frames + len(str(size)) - 1


def _echo(config: RunConfig, schema: AdapterSchema) -> dict[str, str | int]:
    """Return the fields that identify run and attempt in each message, with the lengths of a real run."""
    name, nonce = f"fed-{'0' * 8}", "0" * 16
    echo: dict[str, str | int] = {"federation": name, "round": 1, "attempt": 1, "nonce": nonce}
    return {**echo, "schema-sha256": schema.sha256, "config-sha256": config.sha256}
