"""The ClientApp: reads a task, has the learner do it, and lets only an update, counts and error codes out.

It holds no model and imports no torch. The learner is found through an entry point of `fedgrpo.learners`: a node whose
own configuration gives a `partition-id` is a simulated client. Nothing the server sends decides this.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import astuple
from functools import cache
from importlib.metadata import entry_points
from typing import TypeVar

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from ..common import wire
from ..common.adapter import Adapter, AdapterSchema
from ..common.config import RunConfig, Value
from ..common.errors import ConfigError, DataError, FedGRPOError, ProtocolError, RewardError
from ..common.protocol import EvaluateTask, TrainTask
from .learner import Learner

LOGGER = logging.getLogger("fedgrpo.client")
Scalar = TypeVar("Scalar", int, float, str)
CODES = {ConfigError: "config", DataError: "data", RewardError: "reward", ProtocolError: "task"}

app = ClientApp()


@app.query("join")
def join(message: Message, context: Context) -> Message:
    """Say who we are and what adapter we train."""

    def answer(learner: Learner, _: wire.Header) -> RecordDict:
        can = learner.capabilities()
        return wire.pack(
            {
                "organisation": can.organisation,
                "schema": can.schema.to_json(),
                "base-model-sha256": can.base_model_sha256,
                "reward-names": ",".join(can.reward_names),
                "examples": can.examples,
                "prompts-too-long": can.prompts_too_long,
            }
        )

    return _reply(message, context, answer)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one round on our own prompts and rewards, and send the delta."""

    def answer(learner: Learner, header: wire.Header) -> RecordDict:
        schema = learner.capabilities().schema
        update = learner.train(_train_task(header, message.content, schema))
        echo = {k: header[k] for k in ("federation", "round", "attempt", "nonce", "schema-sha256", "config-sha256")}
        content = wire.pack({**echo, "num-examples": update.num_examples}, vector=update.delta)
        return wire.with_metrics(content, update.metrics)

    return _reply(message, context, answer)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Answer our held-out problems with the global adapter, and send counts."""

    def answer(learner: Learner, header: wire.Header) -> RecordDict:
        schema = learner.capabilities().schema
        task = EvaluateTask(
            federation=_field(header, "federation", str),
            round=_field(header, "round", int),
            adapter=Adapter(schema, wire.vector_of(message.content, schema.size)),
            temperature=_field(header, "temperature", float),
        )
        found = learner.evaluate(task)
        tallies = {"total": astuple(found.total)} | {name: astuple(t) for name, t in found.classes.items()}
        return wire.pack({"federation": task.federation, "round": task.round, "tallies": json.dumps(tallies)})

    return _reply(message, context, answer)


def _reply(message: Message, context: Context, answer: Callable[[Learner, wire.Header], RecordDict]) -> Message:
    """Answer a message; a failure leaves as a code, since the text of an exception may hold a private prompt."""
    try:
        header = wire.header_of(message.content)
        values = tuple(sorted(context.run_config.items()))
        config = RunConfig().with_values(dict(values))
        if header.get("config-sha256") != config.sha256:
            raise ProtocolError("config", "the task was made with other settings than this run's configuration")
        content = answer(_learner(tuple(sorted(context.node_config.items())), values), header)
    except FedGRPOError as error:
        LOGGER.error("%s", error)
        content = wire.pack({"error": next((c for kind, c in CODES.items() if isinstance(error, kind)), "failed")})
    except Exception:
        LOGGER.exception("the client failed")
        content = wire.pack({"error": "internal"})
    return Message(content, reply_to=message)


@cache
def _learner(node_config: tuple[tuple[str, Value], ...], run_config: tuple[tuple[str, Value], ...]) -> Learner:
    """The learner of this node: made once in a process, so that the model stays resident between messages."""
    if "partition-id" not in dict(node_config):
        raise ConfigError("This node has no partition-id in its --node-config, so there is no data it may use.")
    (entry,) = entry_points(group="fedgrpo.learners", name="simulation")
    return entry.load()(dict(node_config), RunConfig().with_values(dict(run_config)))


def _train_task(header: wire.Header, content: RecordDict, schema: AdapterSchema) -> TrainTask:
    if header.get("schema-sha256") != schema.sha256:
        raise ProtocolError("schema", "the task is for an adapter of other shapes")
    refusal = _field(header, "last-refusal", str)
    if refusal:
        LOGGER.warning("the server refused our last update: %s", refusal)
    return TrainTask(
        federation=_field(header, "federation", str),
        round=_field(header, "round", int),
        attempt=_field(header, "attempt", int),
        adapter=Adapter(schema, wire.vector_of(content, schema.size)),
        position=_field(header, "position", int),
    )


def _field(header: wire.Header, key: str, kind: type[Scalar]) -> Scalar:
    value = header.get(key)
    if not isinstance(value, kind) or type(value) is not kind:  # a bool is an int to Python, and none to us
        raise ProtocolError("header", f"the task's {key} is missing or has another type")
    return value
