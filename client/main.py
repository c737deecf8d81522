"""The ClientApp: reads a task, has the learner do it, and lets only an update, counts and error codes out.

It holds no model and imports no torch. A node whose own configuration gives a `config-path` is an organisation: its
learner is behind a Unix socket, and every message passes the egress gate. One that gives a `partition-id` is a
simulated client, whose learner is in this process (entry point `fedgrpo.learners`). Nothing the server sends decides.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from dataclasses import astuple
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TypeVar

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from ..common.adapter.adapter import Adapter
from ..common.adapter.methods import METHODS
from ..common.adapter.schema import AdapterSchema, trained_part
from ..common.errors import ConfigError, FedGRPOError, PeerFailedError, ProtocolError
from ..common.messages import wire
from ..common.messages.messages import EvaluateTask, TrainTask
from ..common.settings.run_config import RunConfig, Value
from .learner import Learner
from .organisation.settings import OrganisationFile
from .relay.egress import EgressGate
from .relay.error_codes import code_of
from .relay.remote_learner import RemoteLearner

LOGGER = logging.getLogger("fedgrpo.client")
Scalar = TypeVar("Scalar", int, float, str)
CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
NodeConfig = tuple[tuple[str, Value], ...]
Answer = Callable[[Learner, wire.Header, RunConfig], RecordDict]

app = ClientApp()


@app.query("join")
def join(message: Message, context: Context) -> Message:
    """Say who we are and what adapter we train."""
    return _reply(message, context, lambda learner, header, config: joining(learner))


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one round on our own prompts and rewards, and send the delta."""
    return _reply(message, context, lambda learner, header, config: trained(learner, header, message.content, config))


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Answer our held-out problems with the global adapter, and send counts."""
    return _reply(message, context, lambda learner, header, config: evaluated(learner, header, message.content, config))


@app.query("ping")
def ping(message: Message, context: Context) -> Message:
    """Say that we are not at work on anything: a node does one message at a time."""
    content, gate = wire.pack({}), None
    try:
        gate = _gate(dict(context.node_config))
    except FedGRPOError as error:
        LOGGER.error("%s", error)
        content = wire.pack({"error": code_of(error)})
    return Message(_released(gate, content, message.metadata.message_type), reply_to=message)


def joining(learner: Learner) -> RecordDict:
    """What a client says when it joins."""
    can = learner.capabilities()
    return wire.pack(
        {
            "organisation": can.organisation,
            "schema": can.schema.to_json(),
            "base-model-sha256": can.base_model_sha256,
            "reward-names": ",".join(can.reward_names),
            "metrics": ",".join(can.metrics),
            "device": can.device,
            "memory-bytes": can.memory_bytes,
            "tokens-per-second": float(can.tokens_per_second),
            "examples": can.examples,
            "prompts-too-long": can.prompts_too_long,
        }
    )


def trained(learner: Learner, header: wire.Header, content: RecordDict, config: RunConfig) -> RecordDict:
    """What a client sends after a round: the delta, counts, and the metrics that may leave."""
    schema = learner.capabilities().schema
    task = _train_task(header, content, schema, config.compression.down)
    nonce = _field(header, "nonce", str)
    if not CODE.fullmatch(nonce):
        raise ProtocolError("header", "the nonce is no short name")
    update = learner.train(task)
    method = METHODS[config.aggregation.method]
    part = trained_part(schema, update.delta, method.trains_in(task.round))
    array = wire.packed(part, config.compression.up)
    echo = {
        "federation": task.federation,
        "round": task.round,
        "attempt": task.attempt,
        "nonce": nonce,
        "schema-sha256": schema.sha256,
        "config-sha256": header["config-sha256"],
    }
    counts = {"num-steps": update.num_steps, "num-examples": update.num_examples}
    return wire.with_metrics(wire.pack({**echo, **counts}, array=array), update.metrics)


def evaluated(learner: Learner, header: wire.Header, content: RecordDict, config: RunConfig) -> RecordDict:
    """What a client sends after an evaluation: counts."""
    schema = learner.capabilities().schema
    task = EvaluateTask(
        federation=_field(header, "federation", str),
        round=_field(header, "round", int),
        adapter=Adapter(schema, wire.vector_of(content, schema.size, config.compression.down)),
        temperature=_field(header, "temperature", float),
        against=_field(header, "against", str),
        attempt=_field(header, "attempt", int),
    )
    found = learner.evaluate(task)
    tallies = {"total": astuple(found.total)} | {name: astuple(t) for name, t in found.classes.items()}
    return wire.pack({"federation": task.federation, "round": task.round, "tallies": json.dumps(tallies)})


def _reply(message: Message, context: Context, answer: Answer) -> Message:
    """Answer a message; a failure leaves as a code, since the text of an exception may hold a private prompt."""
    node, run = dict(context.node_config), tuple(sorted(context.run_config.items()))
    gate: EgressGate | None = None
    try:
        gate = _gate(node)
        header = wire.header_of(message.content)
        config = RunConfig().with_values(dict(run))
        if header.get("config-sha256") != config.sha256:
            raise ProtocolError("config", "the task was made with other settings than this run's configuration")
        deadline = message.metadata.created_at + message.metadata.ttl
        remote = (
            RemoteLearner(gate.organisation.socket, config, deadline, gate.organisation.policy_sha256) if gate else None
        )
        content = answer(remote or _simulated(tuple(sorted(node.items())), run), header, config)
    except FedGRPOError as error:
        LOGGER.error("%s", error)
        content = wire.pack({"error": error.code if isinstance(error, PeerFailedError) else code_of(error)})
    except Exception as error:
        LOGGER.exception("the client failed")
        content = wire.pack({"error": code_of(error)})
    return Message(_released(gate, content, message.metadata.message_type), reply_to=message)


def _gate(node_config: dict[str, Value]) -> EgressGate | None:
    """The organisation's gate; a simulated client has none."""
    path = node_config.get("config-path")
    if path is None:
        return None
    return EgressGate(OrganisationFile.read(Path(str(path))), dry_run=node_config.get("dry-run") is True)


def _released(gate: EgressGate | None, content: RecordDict, kind: str) -> RecordDict:
    try:
        return gate.release(content, kind) if gate else content
    except Exception:
        LOGGER.exception("nothing may leave")
        return wire.pack({"error": "egress-record"})


@cache
def _simulated(node_config: NodeConfig, run_config: NodeConfig) -> Learner:
    """The learner of a simulated client: made once in a process, so that the model stays resident between messages."""
    if "partition-id" not in dict(node_config):
        raise ConfigError(
            "This node's --node-config gives no config-path, so it is no organisation. Give it the organisation's "
            "file: --node-config 'config-path=\"/path/clinic.toml\"'. (`fedgrpo client up` does.)"
        )
    (entry,) = entry_points(group="fedgrpo.learners", name="simulation")
    return entry.load()(dict(node_config), RunConfig().with_values(dict(run_config)))


def _train_task(header: wire.Header, content: RecordDict, schema: AdapterSchema, codec: str) -> TrainTask:
    if header.get("schema-sha256") != schema.sha256:
        raise ProtocolError("schema", "the task is for an adapter of other shapes")
    refusal = _field(header, "last-refusal", str)
    if refusal:
        LOGGER.warning("the server refused our last update: %s", refusal if CODE.fullmatch(refusal) else "(no code)")
    return TrainTask(
        federation=_field(header, "federation", str),
        round=_field(header, "round", int),
        attempt=_field(header, "attempt", int),
        adapter=Adapter(schema, wire.vector_of(content, schema.size, codec)),
        position=_field(header, "position", int),
        counted_round=_field(header, "counted-round", int),
        counted_attempt=_field(header, "counted-attempt", int),
    )


def _field(header: wire.Header, key: str, kind: type[Scalar]) -> Scalar:
    value = header.get(key)
    if not isinstance(value, kind) or type(value) is not kind:  # a bool is an int to Python, and none to us
        raise ProtocolError("header", f"the task's {key} is missing or has another type")
    return value
