"""What the server believes of a reply: everything is checked, and a failure costs that reply only.

Order and reasons: SECURITY section 1. Codes are told to the sender; the reasons stay in the server's log.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import cast

from flwr.app import RecordDict

from ...common.adapter.adapter import clip_norm, l2_norm
from ...common.adapter.methods import METHODS
from ...common.adapter.schema import AdapterSchema, whole_vector
from ...common.errors import ConfigError, PeerFailedError, ProtocolError
from ...common.messages import wire
from ...common.messages.messages import (
    DEVICES,
    TRAIN_METRICS,
    Capabilities,
    Evaluation,
    Tally,
    Update,
    reward_metrics,
)
from ...common.settings.run_config import RunConfig

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MAX_SCHEMA_BYTES = 4_000_000
MAX_PARAMETERS = 1_000_000_000
METRIC = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,95}")
MAX_REWARDS = 32
MAX_METRICS = 100
MAX_RATE = 1e9
FAILURES = {
    "policy": "its policy does not allow this setting of the run",
    "learner": "its learner does not answer, or was not done in time",
    "reward": "its reward function failed",
    "diverged": "its training ended with numbers that are not finite",
    "data": "something is wrong with its data",
    "config": "something is wrong with its own settings",
    "task": "it could not read the task; does it have the same version of fedgrpo?",
    "egress-record": "its egress record cannot be written, so nothing may leave",
    "dry-run": "it takes part in a dry run, and sends nothing",
}
"""What the codes of a client's failures mean. The texts stay with the client."""
MAX_CLASSES = 256
MAX_COUNT = 10_000_000
TALLY_FIELDS = tuple(f.name for f in fields(Tally))


def read_capabilities(content: RecordDict) -> Capabilities:
    """What a client says when it joins.

    Raises:
        ProtocolError: a field is missing, of another type, too long or out of bounds.
    """
    header = _accepted(content, {wire.HEADER})
    schema_text = _text(header, "schema", MAX_SCHEMA_BYTES)
    try:
        schema = AdapterSchema.from_json(schema_text)
    except (ValueError, ConfigError) as error:
        raise ProtocolError("schema", f"the adapter schema cannot be read: {_short(error)}") from error
    if schema.size > MAX_PARAMETERS:
        raise ProtocolError("schema", f"the adapter has {schema.size} parameters, the limit is {MAX_PARAMETERS}")
    names = _names(header, "reward-names", NAME, MAX_REWARDS)
    metrics = _names(header, "metrics", METRIC, MAX_METRICS)
    if not set(metrics) <= set(TRAIN_METRICS + reward_metrics(names)):
        raise ProtocolError("metric-names", "it announces metrics that are none of this protocol or of its rewards")
    device = _text(header, "device", 16)
    if device not in DEVICES:
        raise ProtocolError("header", f"device is none of {', '.join(DEVICES)}")
    return Capabilities(
        organisation=_name(header, "organisation"),
        schema=schema,
        base_model_sha256=_text(header, "base-model-sha256", 64),
        reward_names=names,
        metrics=metrics,
        examples=_count(header, "examples", 1),
        prompts_too_long=_count(header, "prompts-too-long", 0),
        device=device,
        memory_bytes=_count(header, "memory-bytes", 0, 1 << 60),
        tokens_per_second=_rate(header, "tokens-per-second"),
    )


def read_update(
    content: RecordDict,
    client: Capabilities,
    expected: Mapping[str, str | int],
    config: RunConfig,
) -> Update:
    """A client's update, sound in every part.

    Args:
        expected: header fields that must be echoed exactly: federation, round, attempt, nonce, hashes.

    Raises:
        ProtocolError: anything else.
    """
    header = _accepted(content, {wire.HEADER, wire.VECTOR, wire.METRICS})
    for key, value in expected.items():
        if header.get(key) != value or type(header.get(key)) is not type(value):
            raise ProtocolError("stale", f"{key} is {_short(header.get(key))}, this attempt's is {value!r}")
    if set(header) != {"protocol", "num-steps", "num-examples", *expected}:
        raise ProtocolError("header", "the header does not have exactly the agreed fields")
    steps, examples = _work_done(header, config)
    metrics = wire.metrics_of(content, frozenset(client.metrics))
    _check_metrics(metrics, examples)
    settings = config.intake
    factors = METHODS[config.aggregation.method].trains_in(int(expected["round"]))
    part = wire.vector_of(content, client.schema.size_of(factors), config.compression.up)
    norm = l2_norm(part)
    if norm > settings.max_delta_norm and settings.on_large_delta == "reject":
        raise ProtocolError("norm", f"the update has norm {norm:.3g}, the limit is {settings.max_delta_norm:g}")
    delta = whole_vector(client.schema, clip_norm(part, settings.max_delta_norm), factors)
    return Update(delta=delta, num_steps=steps, num_examples=examples, metrics=metrics)


def read_evaluation(content: RecordDict, expected: Mapping[str, str | int], columns: tuple[str, ...]) -> Evaluation:
    """A client's counts over its held-out problems.

    Args:
        columns: the class columns that were asked for; `style` is always there.
    """
    header = _accepted(content, {wire.HEADER})
    if any(header.get(key) != value for key, value in expected.items()):
        raise ProtocolError("stale", "the evaluation is not the one asked for")
    try:
        raw = json.loads(_text(header, "tallies", 100_000))
        tallies = {str(name): _tally(values) for name, values in raw.items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ProtocolError("tallies", f"the counts cannot be read: {_short(error)}") from error
    total = tallies.pop("total", None)
    if total is None or total.problems < 1 or len(tallies) > MAX_CLASSES:
        raise ProtocolError("tallies", "the counts lack the total, or hold too many classes")
    if not {name.partition("=")[0] for name in tallies} <= {"style", *columns}:
        raise ProtocolError("tallies", "the counts hold classes nobody asked for")
    return Evaluation(total=total, classes=tallies)


def _accepted(content: RecordDict, records: set[str]) -> wire.Header:
    header = wire.header_of(content)
    if "error" in header:
        code = str(header["error"])
        known = code if NAME.fullmatch(code) else "error"
        raise PeerFailedError(known, FAILURES.get(known.partition(".")[0], "it reports a failure of its own"))
    if set(content) != records:
        raise ProtocolError("records", "the message does not have exactly the agreed records")
    return header


def _short(value: object) -> str:
    """A hostile value for a log line: at most 80 characters."""
    return repr(value)[:80]


def _work_done(header: wire.Header, config: RunConfig) -> tuple[int, int]:
    """(optimizer steps, prompts): exactly those of a round, or fewer steps where the time was limited."""
    most = config.train.steps_per_round
    steps = _count(header, "num-steps", 1 if config.train.seconds_per_round else most, most)
    wanted = config.prompts_in(steps)
    return steps, _count(header, "num-examples", wanted, wanted)


def _check_metrics(metrics: Mapping[str, float], examples: int) -> None:
    """Metrics in their ranges, and in keeping with each other; a client's policy may keep some back."""
    effective, zero = metrics.get("groups/effective"), metrics.get("groups/zero-variance-share")
    if effective is not None and not 0 <= effective <= examples:
        raise ProtocolError("metric-value", f"{effective:g} effective groups of {examples}")
    if effective is not None and zero is not None and abs(effective - examples * (1 - zero)) > 1e-6 * examples:
        raise ProtocolError("metric-value", f"{effective:g} effective groups of {examples} and {zero:g} without signal")
    for name in (name for name in TRAIN_METRICS if name.endswith("-share")):
        if not 0 <= metrics.get(name, 0.0) <= 1:
            raise ProtocolError("metric-value", f"{name} is {metrics[name]:g}, no share")
    for name in ("groups/effective", "tokens/total"):
        if not metrics.get(name, 0.0).is_integer():
            raise ProtocolError("metric-value", f"{name} is {metrics[name]:g}, no whole number")
    negative = [n for n in metrics if n.startswith(("seconds/", "tokens/", "completion/")) and metrics[n] < 0]
    if negative:
        raise ProtocolError("metric-value", f"{negative[0]} is negative")


def _tally(values: object) -> Tally:
    if not isinstance(values, list):
        raise ValueError("a tally is a list of counts")
    found = [v for v in cast(list[object], values) if type(v) is int and 0 <= v <= MAX_COUNT * 1000]
    if len(found) != len(TALLY_FIELDS) or len(found) != len(cast(list[object], values)):
        raise ValueError(f"a tally has {len(TALLY_FIELDS)} whole numbers in bounds")
    tally = Tally(**dict(zip(TALLY_FIELDS, found, strict=True)))
    parts = (tally.correct, tally.lenient, tally.truncated, tally.gained + tally.lost, tally.gained, tally.compared)
    changed = tally.better + tally.worse
    if max(parts) > tally.problems or max(tally.gained, tally.better) > tally.correct or changed > tally.compared:
        raise ValueError("the counts contradict each other")
    return tally


def _text(header: wire.Header, key: str, limit: int) -> str:
    value = header.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= limit:
        raise ProtocolError("header", f"{key} is missing, no text, or longer than {limit}")
    return value


def _name(header: wire.Header, key: str) -> str:
    value = _text(header, key, 64)
    if not NAME.fullmatch(value):
        raise ProtocolError("header", f"{key} is no name of letters, digits, dots and hyphens")
    return value


def _names(header: wire.Header, key: str, pattern: re.Pattern[str], most: int) -> tuple[str, ...]:
    """Distinct names, separated by commas; an empty text has none."""
    text = header.get(key)
    if text == "":
        return ()
    names = tuple(_text(header, key, 100 * most).split(","))
    if len(set(names)) != len(names) or len(names) > most or not all(pattern.fullmatch(n) for n in names):
        raise ProtocolError("header", f"{key} are no distinct names")
    return names


def _rate(header: wire.Header, key: str) -> float:
    value = header.get(key)
    if type(value) is not float or not 0 <= value <= MAX_RATE:
        raise ProtocolError("count", f"{key} is {_short(value)}, not a number from 0 to {MAX_RATE:g}")
    return value


def _count(header: wire.Header, key: str, low: int, high: int = MAX_COUNT) -> int:
    value = header.get(key)
    if type(value) is not int or not low <= value <= high:
        raise ProtocolError("count", f"{key} is {_short(value)}, not a whole number from {low} to {high}")
    return value
