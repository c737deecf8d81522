"""The ClientApp: reads a task, has the learner do it, and lets only an update, counts and error codes out.

It holds no model and imports no torch. A node whose own configuration gives a `config-path` is an organisation: its
learner is behind a Unix socket, and every message passes the egress gate. One that gives a `partition-id` is a
simulated client, whose learner is in this process (entry point `fedgrpo.learners`). Nothing the server sends decides.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TypeVar, cast

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from ..common.adapter.adapter import Adapter
from ..common.adapter.schema import AdapterSchema, trained_part
from ..common.audit.shown import Signed, take_lines, with_signature
from ..common.errors import ConfigError, FedGRPOError, PeerFailedError, ProtocolError
from ..common.foreign import safe_logger
from ..common.messages import wire
from ..common.messages.messages import EvaluateTask, Failure, SecaggRequest, TaskId, TrainTask
from ..common.settings.run_config import RunConfig, Value
from .learner import Learner, SummedLearner
from .organisation.bundle import check_bundle, run_bundle
from .organisation.settings import OrganisationFile
from .relay.egress import EgressGate
from .relay.error_codes import code_of
from .relay.remote_learner import RemoteLearner

LOGGER = safe_logger("fedgrpo.client")
Task = TypeVar("Task", TrainTask, EvaluateTask)
CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
NodeConfig = tuple[tuple[str, Value], ...]
Answer = Callable[[Learner, RunConfig], RecordDict]
NOT_AN_ORGANISATION = (
    "This node's --node-config does not give a config-path, so it is not an organisation. Give it the "
    "organisation's file: --node-config 'config-path=\"/path/clinic.toml\"'. (`fedgrpo client up` does.)"
)

app = ClientApp()


@app.query("join")
def join(message: Message, context: Context) -> Message:
    """Say who we are and what adapter we train."""
    return _reply(message, context, lambda learner, config: joining(learner))


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one round on our own prompts and rewards, and send the delta, or the keys of the sum it will be part of."""
    return _reply(message, context, lambda learner, config: trained(learner, message.content, config))


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Answer our held-out problems with the global adapter, and send counts."""
    return _reply(message, context, lambda learner, config: evaluated(learner, message.content, config))


@app.query("audit")
def audit(message: Message, context: Context) -> Message:
    """Sign the end of the round log, which is in the message."""
    return _reply(message, context, lambda learner, config: wire.pack({}))


@app.query("secagg")
def secagg(message: Message, context: Context) -> Message:
    """Take the next step of a sum of masked results."""
    return _reply(message, context, lambda learner, config: stepped(learner, message.content))


@app.query("ping")
def ping(message: Message, context: Context) -> Message:
    """Say that we are not at work on anything: a node does one message at a time."""
    content, gate = wire.pack({}), None
    try:
        gate = _gate(dict(context.node_config))
        _check_executor(gate, context)
    except FedGRPOError as error:
        LOGGER.error("%s", error)
        content = _failure(code_of(error))
    return Message(_released(gate, content, message.metadata.message_type), reply_to=message)


def joining(learner: Learner) -> RecordDict:
    """Return what a client sends when it joins."""
    return wire.record_of(learner.capabilities())


def trained(learner: Learner, content: RecordDict, config: RunConfig) -> RecordDict:
    """Return what a client sends after a round: the delta, counts, and the metrics that its policy allows."""
    schema = learner.capabilities().schema
    task = _task_of(TrainTask, content, schema, config.compression.down)
    if task.schema_sha256 != schema.sha256:
        raise ProtocolError("schema", "the task is for an adapter of other shapes")
    if not CODE.fullmatch(task.nonce):
        raise ProtocolError("header", "the nonce is not a short name")
    if task.last_refusal:
        code = task.last_refusal if CODE.fullmatch(task.last_refusal) else "(not a code)"
        LOGGER.warning("the server refused our last update: %s", code)
    if config.privacy.mode != "none":
        return _part_of(cast(SummedLearner, learner), task, TaskId.of(task))
    update = replace(learner.train(task), task=TaskId.of(task))
    factors = config.method.trains_in(task.round)
    part = trained_part(schema, update.delta, factors)
    return wire.record_of(update, array=wire.packed(part, config.compression.up))


def evaluated(learner: Learner, content: RecordDict, config: RunConfig) -> RecordDict:
    """Return what a client sends after an evaluation: counts."""
    task = _task_of(EvaluateTask, content, learner.capabilities().schema, config.compression.down)
    if config.privacy.mode != "none":
        task_id = TaskId(federation=task.federation, round=task.round, attempt=task.attempt)
        return _part_of(cast(SummedLearner, learner), task, task_id)
    return wire.record_of(replace(learner.evaluate(task), federation=task.federation, round=task.round))


def stepped(learner: Learner, content: RecordDict) -> RecordDict:
    """Return what a client sends for a step of a sum."""
    reply = cast(SummedLearner, learner).step(wire.message_of(SecaggRequest, content))
    return wire.record_of(reply, array=wire.packed_words(reply.words) if reply.words.size else None)


def _part_of(learner: SummedLearner, task: TrainTask | EvaluateTask, task_id: TaskId) -> RecordDict:
    part = replace(learner.part(task), task=task_id)
    return wire.record_of(part, array=wire.packed_words(part.words) if part.words.size else None)


def _reply(message: Message, context: Context, answer: Answer) -> Message:
    """Answer a message; a failure leaves as a code, since the text of an exception may hold a private prompt."""
    node, run = dict(context.node_config), tuple(sorted(context.run_config.items()))
    gate: EgressGate | None = None
    signed: Signed | None = None
    try:
        gate = _gate(node)
        lines = take_lines(message.content)
        _check_executor(gate, context)
        header = wire.header_of(message.content)
        config = RunConfig().with_values(dict(run))
        if header.get("config-sha256") != config.sha256:
            raise ProtocolError("config", "the task was made with other settings than this run's configuration")
        deadline = message.metadata.created_at + message.metadata.ttl
        remote: RemoteLearner | None = None
        if gate:
            own = gate.organisation
            remote = RemoteLearner(own.socket, config, deadline, own.policy_sha256, run_bundle(node))
        signed = _signed(remote, lines) if remote and lines else None
        content = answer(remote or _simulated(tuple(sorted(node.items())), run), config)
    except FedGRPOError as error:
        LOGGER.error("%s", error)
        content = _failure(error.code if isinstance(error, PeerFailedError) else code_of(error))
    except Exception as error:
        LOGGER.exception("the client failed")
        content = _failure(code_of(error))
    content = with_signature(content, signed) if signed else content
    return Message(_released(gate, content, message.metadata.message_type), reply_to=message)


def _signed(remote: RemoteLearner, lines: str) -> Signed | None:
    """Return the learner's signature of the round log; None where it does not take part in the audit."""
    index, signature = remote.sign_log(lines)
    return Signed(index, signature) if index >= 0 else None


def refusal(message: Message, context: Context, error: FedGRPOError) -> Message:
    """Answer a message of any kind with a failure's code alone; the reason is in the log."""
    LOGGER.error("%s", error)
    content, gate = _failure(code_of(error)), None
    try:
        gate = _gate(dict(context.node_config))
    except FedGRPOError:
        LOGGER.error("the refusal is not on the egress record, since the organisation's file cannot be read")
    return Message(_released(gate, content, message.metadata.message_type), reply_to=message)


def organisation_of(node_config: dict[str, Value]) -> OrganisationFile:
    """Return the organisation that a node's own configuration names.

    Raises:
        ConfigError: it names none, or its file is wrong.
    """
    if "config-path" not in node_config:
        raise ConfigError(NOT_AN_ORGANISATION)
    return OrganisationFile.read(Path(str(node_config["config-path"])))


def _failure(code: str) -> RecordDict:
    return wire.record_of(Failure(error=code))


def _gate(node_config: dict[str, Value]) -> EgressGate | None:
    """Return the organisation's egress gate; None for a simulated client."""
    if "config-path" not in node_config:
        return None
    return EgressGate(organisation_of(node_config), dry_run=node_config.get("dry-run") is True)


def _check_executor(gate: EgressGate | None, context: Context) -> None:
    """Refuse to answer for an organisation where Flower itself ran the bundle, and imported this file by way of it."""
    if gate:
        check_bundle(gate.organisation.policy, run_bundle(context.node_config))


def _released(gate: EgressGate | None, content: RecordDict, kind: str) -> RecordDict:
    try:
        return gate.release(content, kind) if gate else content
    except Exception:
        LOGGER.exception("nothing may leave")
        return _failure("egress-record")


@cache
def _simulated(node_config: NodeConfig, run_config: NodeConfig) -> Learner:
    """Return the learner of a simulated client, created once in a process so that the model stays loaded."""
    if "partition-id" not in dict(node_config):
        raise ConfigError(NOT_AN_ORGANISATION)
    (entry,) = entry_points(group="fedgrpo.learners", name="simulation")
    return entry.load()(dict(node_config), RunConfig().with_values(dict(run_config)))


def _task_of(kind: type[Task], content: RecordDict, schema: AdapterSchema, codec: str) -> Task:
    return wire.message_of(kind, content, adapter=Adapter(schema, wire.vector_of(content, schema.size, codec)))
