"""A federation without models: synthetic clients that reply what a test wants, over the in-process grid."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from fedgrpo.common.adapter.adapter import Adapter
from fedgrpo.common.adapter.compression import rounded
from fedgrpo.common.adapter.schema import AdapterSchema, Module, trained_part
from fedgrpo.common.audit.shown import AUDIT, take_lines
from fedgrpo.common.messages import wire
from fedgrpo.common.messages.messages import TrainTask, run_schema
from fedgrpo.common.messages.metric_names import TRAIN_METRICS, reward_metrics
from fedgrpo.common.seeds import derived_seed
from fedgrpo.common.settings.run_config import RunConfig
from fedgrpo.server.main import run_federation
from fedgrpo.server.run.reader import Run
from fedgrpo.simulations.engine.grid import LocalGrid, LocalWorker
from fedgrpo.simulations.engine.simulated_clients import client_rank
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

ECHO = ("federation", "round", "attempt", "nonce", "schema-sha256", "config-sha256")
Sign = Callable[[int, TrainTask | None, str, bytes], RecordDict | None]
"""(client number, task, lines of the round log, bytes of the delta) -> what goes beside, or instead of, the reply."""
Behaviour = Callable[[int, wire.Header, RecordDict], RecordDict]
"""(client number, task header, honest reply) -> the reply it sends instead. May raise or sleep."""


def honest(number: int, header: wire.Header, reply: RecordDict) -> RecordDict:
    return reply


def settings(folder: Path, **values: object) -> RunConfig:
    base = {
        "federation.rounds": 3,
        "federation.start-clients": 4,
        "train.steps-per-round": 1,
        "federation.retry-wait-s": 0.01,
        "federation.join-timeout-s": 2.0,
        "federation.round-timeout-s": 5.0,
        "simulation.clients": 4,
        "evaluation.classes": "steps",
        "adapter.rank": 2,
        "adapter.alpha": 4,
        "output.dir": str(folder),
        "output.run": "run",
    }
    return RunConfig().with_values({**base, **{k.replace("__", ".").replace("_", "-"): v for k, v in values.items()}})


def schema(config: RunConfig) -> AdapterSchema:
    return run_schema(config, (Module("layer.0", 6, 5), Module("layer.1", 5, 4)))


def metrics(effective: float = 3.0, groups: int = 4) -> dict[str, float]:
    names = TRAIN_METRICS + reward_metrics(("correctness",))
    found = dict.fromkeys(names, 0.5) | {"tokens/total": 900.0, "tokens/sampled": 600.0}
    found |= {name: 0.0 for name in names if name.startswith("completion/") and name.endswith("-share")}
    return {**found, "groups/effective": effective, "groups/zero-variance-share": 1 - effective / groups}


def unsigned(number: int, task: TrainTask | None, lines: str, array: bytes) -> RecordDict | None:
    return None


def client_app(config: RunConfig, behave: Behaviour = honest, sign: Sign = unsigned) -> ClientApp:
    """Clients whose delta is a random vector that depends on name, round and where they stand in their shard."""
    app = ClientApp()

    def schema_of(number: int) -> AdapterSchema:
        whole = schema(config)
        return whole.at_rank(client_rank(config, number) or whole.rank)

    @app.query("join")
    def join(message: Message, context: Context) -> Message:
        number = int(context.node_config["partition-id"])
        content = wire.pack(
            {
                "organisation": f"client-{number}",
                "schema": schema_of(number).to_json(),
                "base-model-sha256": "0" * 64,
                "reward-names": "correctness",
                "metrics": ",".join(metrics()),
                "device": "cpu",
                "memory-bytes": 0,
                "tokens-per-second": 0.0,
                "examples": 100,
                "prompts-too-long": 0,
                "held-out": 10,
            }
        )
        return Message(behave(number, {"kind": "join"}, content), reply_to=message)

    @app.query("audit")
    def audit(message: Message, context: Context) -> Message:
        number, lines = int(context.node_config["partition-id"]), take_lines(message.content)
        return Message(sign(number, None, lines, b"") or wire.pack({}), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        number, lines = int(context.node_config["partition-id"]), take_lines(message.content)
        header = wire.header_of(message.content)
        own = schema_of(number)
        seed = derived_seed(config.federation.seed, number, int(header["round"]), int(header["position"]))
        delta = np.random.default_rng(seed).normal(size=own.size).astype(np.float32)
        factors = config.method.trains_in(int(header["round"]))
        sent = rounded(trained_part(own, delta, factors), config.compression.up, top_share=config.compression.top_share)
        array = wire.packed(sent, config.compression.up)
        reply = wire.pack({**{k: header[k] for k in ECHO}, "num-steps": 1, "num-examples": 4}, array=array)
        wire.with_metrics(reply, metrics())
        beside = {"adapter": Adapter(own, wire.vector_of(message.content, own.size, config.compression.down))}
        task = wire.message_of(TrainTask, message.content, **beside)
        reply = behave(number, {**header, "kind": "train"}, reply)
        signed = sign(number, task, lines, array[wire.VECTOR].data) if lines else None
        if signed is not None and AUDIT in signed:
            reply[AUDIT] = signed[AUDIT]
        return Message(reply if signed is None or AUDIT in signed else signed, reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        number, header = int(context.node_config["partition-id"]), wire.header_of(message.content)
        correct = min(9, int(header["round"]) + 2)
        tally = [10, correct, correct + 1, 1, 100, correct - 2, 0, 10 if header["against"] else 0, 0, 0]
        reply = wire.pack(
            {
                "federation": header["federation"],
                "round": header["round"],
                "tallies": json.dumps({"total": tally, "steps=1": tally, "style=reasoned": tally}),
            }
        )
        return Message(behave(number, {**header, "kind": "evaluate"}, reply), reply_to=message)

    return app


def grid(config: RunConfig, app: ClientApp) -> LocalGrid:
    """Each client in a lane of its own, as in a real federation."""
    nodes = {k + 2: {"partition-id": k} for k in range(config.simulation.clients)}
    return LocalGrid({node: LocalWorker(app, {node: own}, config.flat()) for node, own in nodes.items()})


def play(config: RunConfig, behave: Behaviour = honest, sign: Sign = unsigned) -> Run:
    net = grid(config, client_app(config, behave, sign))
    try:
        run_federation(net, config)
    finally:
        net.close()
    return Run.read(Path(config.output.dir) / config.output.run)


def misbehave_in(kind, clients, how, round_number=None):
    """A behaviour: `how` for these clients in messages of this kind (and round), honest otherwise."""

    def behave(number, header, reply):
        hit = header["kind"] == kind and number in clients and round_number in (None, header.get("round"))
        return how(number, header, reply) if hit else reply

    return behave


def fail(number, header, reply):
    raise RuntimeError("PRIVATE-PROMPT")


def garbage(number, header, reply):
    reply["vector"] = ArrayRecord({"vector": Array(np.full(3, np.nan, np.float32))})
    return reply
