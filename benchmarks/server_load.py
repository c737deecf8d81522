"""The server under load: many clients with large adapters, its memory and its own time a round.

    python benchmarks/server_load.py                    100 clients x 4.4 M parameters (17.6 MB each)
    python benchmarks/server_load.py --quick

The clients are synthetic: each reply is made when the server pulls it, as the network would hand it over, and the time
of making it is not the server's. Also: the time of one intake check, and memory against the number of clients. CPU
seconds are of one thread, and of a round, with evaluations before and after.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # more threads wait for each other where other programs use the cores
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from dataclasses import fields

import numpy as np
from fedgrpo.common.adapter.schema import AdapterSchema, Module
from fedgrpo.common.messages import wire
from fedgrpo.common.messages.messages import Capabilities, Evaluation, Tally, TaskId, Update
from fedgrpo.common.messages.metric_names import TRAIN_METRICS, reward_metrics
from fedgrpo.common.settings.run_config import RunConfig
from fedgrpo.server.federation.intake import read_update
from fedgrpo.server.main import run_federation
from fedgrpo.simulations.engine.grid import LocalGrid
from flwr.app import Message, RecordDict

REWARDS = ("correctness",)
METRICS = TRAIN_METRICS + reward_metrics(REWARDS)


class SyntheticGrid(LocalGrid):
    """Makes each reply when it is pulled."""

    def __init__(self, schema: AdapterSchema, clients: int, config: RunConfig) -> None:
        super().__init__({})
        self.making_s = 0.0
        self._schema, self._clients, self._run_config = schema, clients, config
        self._delta = np.random.default_rng(0).normal(size=schema.size).astype(np.float32) * 1e-3
        self._messages: dict[str, Message] = {}

    def get_node_ids(self) -> list[int]:
        return list(range(2, 2 + self._clients))

    def push_messages(self, messages):
        ids = []
        for message in messages:
            ids.append(f"{message.metadata.dst_node_id}-{len(self._messages)}-{time.monotonic_ns()}")
            message.metadata.__dict__["_message_id"] = ids[-1]
            self._messages[ids[-1]] = message
        return ids

    def pull_messages(self, message_ids):
        start = time.process_time()
        replies = [self._reply(self._messages.pop(i)) for i in message_ids if i in self._messages]
        self.making_s += time.process_time() - start
        return replies

    def _reply(self, message: Message) -> Message:
        node, header = message.metadata.dst_node_id, wire.header_of(message.content)
        if message.metadata.message_type == "query.join":
            content = wire.record_of(capabilities(self._schema, f"client-{node}"))
        elif message.metadata.message_type == "train":
            task = TaskId(**{each.name: header[each.name.replace("_", "-")] for each in fields(TaskId)})
            content = update(task, self._delta * np.float32(1 + node / 1000), self._run_config)
        else:
            tallies = {"total": Tally(problems=10, correct=5, lenient=5, tokens=100, gained=1)}
            answers = Evaluation(tallies=tallies, federation=header["federation"], round=header["round"])
            content = wire.record_of(answers)
        return Message(content, reply_to=message)


def capabilities(schema: AdapterSchema, organisation: str) -> Capabilities:
    return Capabilities(
        organisation=organisation,
        schema=schema,
        base_model_sha256="0" * 64,
        reward_names=REWARDS,
        metrics=METRICS,
        examples=1000,
        prompts_too_long=0,
        held_out=1000,
        device="cuda",
        memory_bytes=1 << 36,
        tokens_per_second=1000.0,
    )


def update(task: TaskId, delta: np.ndarray, config: RunConfig) -> RecordDict:
    metrics = {name: 0.0 if name.startswith("completion/") else 0.5 for name in METRICS}
    metrics |= {
        "groups/effective": float(config.prompts_per_round // 2),
        "tokens/total": 1000.0,
        "tokens/sampled": 800.0,
    }
    message = Update(
        delta=delta,
        num_steps=config.train.steps_per_round,
        num_examples=config.prompts_per_round,
        metrics=metrics,
        task=task,
    )
    return wire.record_of(message, array=wire.packed(delta))


def schema_of(parameters: int) -> AdapterSchema:
    """B factors of rank 16 that add up to about so many parameters."""
    wide = parameters // (16 * 44)
    return AdapterSchema(
        modules=tuple(Module(f"layers.{i:02d}.proj", 64, wide) for i in range(44)),
        rank=16,
        alpha=32,
        holds=("B",),
        seed=0,
    )


def load(clients: int, parameters: int, rounds: int, pipe) -> None:
    """Run a federation of synthetic clients in this process, and say what it took."""
    config = RunConfig().with_values(
        {
            "aggregation.method": "ffa",
            "federation.rounds": rounds,
            "federation.start-clients": clients,
            "evaluation.every": 0,
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        config = config.with_values({"output.dir": folder, "output.run": "load"})
        grid = SyntheticGrid(schema_of(parameters), clients, config)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        start_cpu, start = time.process_time(), time.monotonic()
        run_federation(grid, config)
        cpu, wall = time.process_time() - start_cpu - grid.making_s, time.monotonic() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    pipe.send({"cpu_s": cpu / rounds, "wall_s": wall / rounds, "peak_mb": peak, "before_mb": before})


def measured(clients: int, parameters: int, rounds: int) -> dict[str, float]:
    spawn = multiprocessing.get_context("spawn")
    mine, theirs = spawn.Pipe()
    process = spawn.Process(target=load, args=(clients, parameters, rounds, theirs))
    process.start()
    theirs.close()
    try:
        return mine.recv()
    except EOFError:
        raise SystemExit(f"the federation of {clients} clients failed: its error is above") from None
    finally:
        process.join()


def check_ms(parameters: int, repeats: int) -> float:
    """CPU milliseconds of one intake check, the median of some."""
    schema, config = schema_of(parameters), RunConfig()
    task = TaskId(federation="f", round=1, attempt=1, nonce="n", schema_sha256="s", config_sha256="c")
    member = capabilities(schema, "a")
    content = update(task, np.full(schema.size, 1e-3, np.float32), config)
    times = []
    for _ in range(repeats):
        start = time.process_time()
        read_update(content, member, task, config)
        times.append(time.process_time() - start)
    return sorted(times)[len(times) // 2] * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--parameters", type=int, default=4_400_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    clients, parameters = (20, 1_000_000) if given.quick else (given.clients, given.parameters)
    few, many = measured(max(2, clients // 10), parameters, given.rounds), measured(clients, parameters, given.rounds)
    check = check_ms(parameters, 50)
    print(f"{'clients':>8} {'MB each':>8} {'server CPU s':>13} {'wall s':>7} {'peak MB':>8}")
    for count, found in ((max(2, clients // 10), few), (clients, many)):
        size = parameters * 4 / 1e6
        print(f"{count:8} {size:8.1f} {found['cpu_s']:13.1f} {found['wall_s']:7.1f} {found['peak_mb']:8.0f}")
    print(f"one intake check of {parameters / 1e6:.1f} M parameters: {check:.2f} ms of CPU")
    ratios = {"peak memory, ten times the clients": many["peak_mb"] / few["peak_mb"]}
    figures = {"clients": clients, "parameters": parameters, "intake_check_ms": check, **many}
    print(json.dumps({"name": "server_load", "ratios": ratios, "figures": figures}))


if __name__ == "__main__":
    main()
