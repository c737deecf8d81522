"""Validation of client replies: everything is checked, and a failure costs only that reply.

docs/security.md gives the reasons. The sender is told a code; the text stays in the server's log.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import astuple, fields, replace

import numpy as np
from flwr.app import RecordDict

from ...common.adapter.adapter import clip_norm, l2_norm
from ...common.adapter.schema import Vector, whole_vector
from ...common.bounds import NAME
from ...common.errors import PeerFailedError, ProtocolError
from ...common.foreign import LABEL_CHARACTERS, printable, quoted
from ...common.messages import wire
from ...common.messages.messages import (
    DEVICES,
    Capabilities,
    EvaluateTask,
    Evaluation,
    Tally,
    TaskId,
    Update,
)
from ...common.messages.metric_names import PRIVATE_METRICS, TRAIN_METRICS, RoundWork, range_of, reward_metrics
from ...common.messages.round_work import round_work
from ...common.settings.run_config import RunConfig

HASH = re.compile(r"[0-9a-f]{1,64}")
LAYER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
MAX_SCHEMA_BYTES = 4_000_000
MAX_PARAMETERS = 1_000_000_000
METRIC = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,95}")
MAX_REWARDS = 32
MAX_METRICS = 100
MAX_RATE = 1e9
FAILURES = {
    "policy.app-sha256": "it does not accept this run's app bundle: compare `fedgrpo server bundle` with its policy",
    "policy": "its policy does not allow this setting of the run",
    "learner": "its learner does not answer, or was not done in time",
    "reward": "its reward function failed",
    "diverged": "its training ended with numbers that are not finite",
    "data": "something is wrong with its data",
    "config": "something is wrong with its own settings",
    "task": "it could not read the task; does it have the same version of fedgrpo?",
    "egress-record": "its egress record cannot be written, so nothing may leave",
    "dry-run": "it takes part in a dry run, and sends nothing",
    "secagg": "it refuses this step of the sum",
}
"""The meaning of the codes of a client's failures. The texts stay with the client."""
MAX_CLASSES = 256
MAX_COUNT = 10_000_000
MAX_HELD_OUT = 1_000_000
"""Held-out problems of one client: all of them are answered with every adapter that is evaluated."""
MAX_TALLIES_BYTES = 100_000
NOTHING: Vector = np.zeros(0, dtype=np.float32)


def read_capabilities(content: RecordDict) -> Capabilities:
    """Return what a client says when it joins.

    Raises:
        ProtocolError: a field is missing, unknown, of another type, too long or out of bounds.
    """
    header = accepted(content, {wire.HEADER})
    check_length(header, "schema", MAX_SCHEMA_BYTES)
    client = wire.message_of(Capabilities, content)
    _check_name("organisation", client.organisation)
    if client.schema.size > MAX_PARAMETERS:
        raise ProtocolError("schema", f"the adapter has {client.schema.size} parameters, the limit is {MAX_PARAMETERS}")
    if not HASH.fullmatch(client.base_model_sha256):
        raise ProtocolError("header", "base-model-sha256 is not a hash: at most 64 hexadecimal digits")
    if not all(LAYER.fullmatch(module.name) for module in client.schema.modules):
        raise ProtocolError("schema", "a layer's name is not one of letters, digits, dots, hyphens and underscores")
    _check_names("reward-names", client.reward_names, NAME, MAX_REWARDS)
    _check_names("metrics", client.metrics, METRIC, MAX_METRICS)
    if not set(client.metrics) <= set(TRAIN_METRICS + PRIVATE_METRICS + reward_metrics(client.reward_names)):
        raise ProtocolError("metric-names", "it announces metrics that are neither the protocol's nor its rewards'")
    if client.device not in DEVICES:
        raise ProtocolError("header", f"device is not one of {', '.join(DEVICES)}")
    _check_count("examples", client.examples, 0)
    _check_count("prompts-too-long", client.prompts_too_long, 0)
    _check_count("held-out", client.held_out, 0, MAX_HELD_OUT)
    _check_count("memory-bytes", client.memory_bytes, 0, 1 << 60)
    if not 0 <= client.tokens_per_second <= MAX_RATE:
        raise ProtocolError("count", f"tokens-per-second is {client.tokens_per_second}, not from 0 to {MAX_RATE:g}")
    return client


def read_update(content: RecordDict, client: Capabilities, task: TaskId, config: RunConfig) -> Update:
    """Return a client's update, sound in every part.

    Args:
        task: the task that the update must answer.

    Raises:
        ProtocolError: anything else.
    """
    accepted(content, {wire.HEADER, wire.VECTOR, wire.METRICS})
    metrics = wire.metrics_of(content, frozenset(client.metrics))
    update = wire.message_of(Update, content, delta=NOTHING, metrics=metrics)
    for field in fields(TaskId):
        sent, expected = getattr(update.task, field.name), getattr(task, field.name)
        if sent != expected:
            raise ProtocolError("stale", f"{field.name} is {quoted(sent)}, this attempt's is {expected!r}")
    _check_work(update, config)
    _check_metrics(metrics, round_work(update.num_examples, config))
    settings = config.intake
    factors = config.method.trains_in(task.round)
    part = wire.vector_of(content, client.schema.size_of(factors), config.compression.up)
    norm = l2_norm(part)
    if norm > settings.max_delta_norm and settings.on_large_delta == "reject":
        raise ProtocolError("norm", f"the update has norm {norm:.3g}, the limit is {settings.max_delta_norm:g}")
    return replace(update, delta=whole_vector(client.schema, clip_norm(part, settings.max_delta_norm), factors))


def read_evaluation(
    content: RecordDict,
    task: EvaluateTask,
    columns: tuple[str, ...],
    *,
    held_out: int = MAX_HELD_OUT,
    max_tokens: int = MAX_COUNT,
) -> Evaluation:
    """Return a client's counts over its held-out problems.

    Args:
        columns: the class columns that were requested; `style` is always there.
        held_out: the held-out problems that the client declared when it joined: it speaks for no more.
        max_tokens: the longest completion of the evaluation.

    Raises:
        ProtocolError: the counts answer another task, contradict each other, or are not exactly what was requested.
    """
    header = accepted(content, {wire.HEADER})
    check_length(header, "tallies", MAX_TALLIES_BYTES)
    evaluation = wire.message_of(Evaluation, content)
    if (evaluation.federation, evaluation.round) != (task.federation, task.round):
        raise ProtocolError("stale", "the evaluation does not answer this task")
    if "total" not in evaluation.tallies or evaluation.total.problems < 1 or len(evaluation.tallies) > MAX_CLASSES + 1:
        raise ProtocolError("tallies", "the counts lack the total, or hold too many classes")
    if not {name.partition("=")[0] for name in evaluation.classes} <= {"style", *columns}:
        raise ProtocolError("tallies", "the counts hold classes that were not requested")
    if unreadable := next((n for n in evaluation.classes if n != printable(n, LABEL_CHARACTERS)), ""):
        raise ProtocolError("tallies", f"a class is not a printable name of {LABEL_CHARACTERS}: {quoted(unreadable)}")
    for tally in evaluation.tallies.values():
        check_tally(tally, max_tokens)
    if evaluation.total.problems > held_out:
        problems = evaluation.total.problems
        raise ProtocolError(
            "tallies", f"it counts {problems} held-out problems, and declared {held_out} when it joined"
        )
    return evaluation


def accepted(content: RecordDict, records: set[str]) -> wire.Header:
    """Return the header of a message that holds exactly these records; a reported failure is raised as one."""
    header = wire.header_of(content)
    if "error" in header:
        code = str(header["error"])
        known = code if NAME.fullmatch(code) else "error"
        kind = known if known in FAILURES else known.partition(".")[0]
        raise PeerFailedError(known, FAILURES.get(kind, "it reports a failure of its own"))
    if set(content) != records:
        raise ProtocolError("records", "the message does not have exactly the agreed records")
    return header


def _check_work(update: Update, config: RunConfig) -> None:
    """Check steps and prompts: exactly those of a round, or fewer steps where a client may end early."""
    most = config.train.steps_per_round
    _check_count("num-steps", update.num_steps, 1 if config.train.may_end_early else most, most)
    examples = config.prompts_in(update.num_steps)
    _check_count("num-examples", update.num_examples, examples, examples)


def _check_metrics(metrics: Mapping[str, float], work: RoundWork) -> None:
    """Check that metrics are in their ranges and consistent; a client's policy may withhold some."""
    for name, value in metrics.items():
        if complaint := range_of(name).complaint(value, work):
            raise ProtocolError("metric-value", f"{name} {complaint}")
    effective, zero = metrics.get("groups/effective"), metrics.get("groups/zero-variance-share")
    groups = work.groups
    if effective is not None and zero is not None and abs(effective - groups * (1 - zero)) > 1e-6 * groups:
        raise ProtocolError("metric-value", f"{effective:g} effective groups of {groups} and {zero:g} without signal")


def check_tally(tally: Tally, max_tokens: int) -> None:
    """Refuse counts that contradict each other."""
    if min(astuple(tally)) < 0 or tally.problems > MAX_HELD_OUT or tally.tokens > tally.problems * max_tokens:
        raise ProtocolError("tallies", "a count is out of bounds")
    parts = (tally.correct, tally.lenient, tally.truncated, tally.gained + tally.lost, tally.gained, tally.compared)
    changed = tally.better + tally.worse
    if max(parts) > tally.problems or max(tally.gained, tally.better) > tally.correct or changed > tally.compared:
        raise ProtocolError("tallies", "the counts contradict each other")


def check_length(header: wire.Header, key: str, limit: int) -> None:
    """Check the length of a text before anything parses it."""
    value = header.get(key)
    if isinstance(value, str) and len(value) > limit:
        raise ProtocolError("header", f"{key} is longer than {limit} characters")


def _check_name(key: str, value: str) -> None:
    if not NAME.fullmatch(value):
        raise ProtocolError("header", f"{key} is not a name of letters, digits, dots and hyphens")


def _check_names(key: str, names: tuple[str, ...], pattern: re.Pattern[str], most: int) -> None:
    if len(set(names)) != len(names) or len(names) > most or not all(pattern.fullmatch(n) for n in names):
        raise ProtocolError("header", f"{key} are not at most {most} distinct names")


def _check_count(key: str, value: int, low: int, high: int = MAX_COUNT) -> None:
    if not low <= value <= high:
        raise ProtocolError("count", f"{key} is {quoted(value)}, not an integer from {low} to {high}")
