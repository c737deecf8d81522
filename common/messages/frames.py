"""Tasks and results as bytes, for the socket between relay and learner and for the learner's cache.

One line of JSON, a newline, then the raw little-endian float32 of the one array, if there is one. Nothing else is ever
parsed, and the array's exact size is known from the schema. Both ends are the organisation's own, and check anyway.
"""

# pyright: basic
from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, TypeVar, cast

import numpy as np

from ..adapter.adapter import Adapter
from ..adapter.schema import AdapterSchema, Vector
from ..errors import ProtocolError
from .messages import Capabilities, EvaluateTask, Evaluation, Tally, TrainTask, Update

VERSION = 2
MAX_FIELDS_BYTES = 8_000_000
Scalar = TypeVar("Scalar", int, float, str)


@dataclass(frozen=True, slots=True)
class Frame:
    """Fields, and a vector (float32, any length)."""

    fields: dict[str, Any]
    vector: Vector | None = None

    def pack(self) -> bytes:
        """The frame as bytes."""
        line = json.dumps({"version": VERSION, **self.fields}, separators=(",", ":")).encode()
        array = b"" if self.vector is None else self.vector.astype("<f4", copy=False).tobytes()
        return line + b"\n" + array

    @classmethod
    def unpack(cls, data: bytes) -> Frame:
        """Read what `pack` wrote.

        Raises:
            ProtocolError: it is no frame of this version.
        """
        line, newline, array = data.partition(b"\n")
        try:
            fields = json.loads(line) if newline and len(line) <= MAX_FIELDS_BYTES else None
        except (ValueError, RecursionError):
            fields = None
        if not isinstance(fields, dict) or len(array) % 4:
            raise ProtocolError("frame", "this is no frame: a line of JSON, then float32")
        known = cast(dict[str, Any], fields)
        if known.pop("version", None) != VERSION:
            raise ProtocolError("version", f"relay and learner need the same fedgrpo; this is version {VERSION}")
        return cls(known, np.frombuffer(array, dtype="<f4").astype(np.float32, copy=False) if array else None)

    def get(self, key: str, kind: type[Scalar]) -> Scalar:
        """A field of exactly this type.

        Raises:
            ProtocolError: it is missing or of another type.
        """
        value = self.fields.get(key)
        if type(value) is not kind:  # a bool is an int to Python, and none to us
            raise ProtocolError("header", f"{key} is missing or has another type")
        return cast(Scalar, value)


def train_frame(task: TrainTask) -> Frame:
    """A training task."""
    place = {"federation": task.federation, "round": task.round, "attempt": task.attempt, "position": task.position}
    place |= {"counted_round": task.counted_round, "counted_attempt": task.counted_attempt}
    return Frame({**place, "schema": task.adapter.schema.sha256}, task.adapter.vector)


def train_task(frame: Frame, schema: AdapterSchema) -> TrainTask:
    """The training task of a frame."""
    return TrainTask(
        federation=frame.get("federation", str),
        round=frame.get("round", int),
        attempt=frame.get("attempt", int),
        adapter=_adapter(frame, schema),
        position=frame.get("position", int),
        counted_round=frame.get("counted_round", int),
        counted_attempt=frame.get("counted_attempt", int),
    )


def evaluate_frame(task: EvaluateTask) -> Frame:
    """An evaluation task."""
    place = {"federation": task.federation, "round": task.round, "temperature": task.temperature}
    place |= {"against": task.against, "attempt": task.attempt}
    return Frame({**place, "schema": task.adapter.schema.sha256}, task.adapter.vector)


def evaluate_task(frame: Frame, schema: AdapterSchema) -> EvaluateTask:
    """The evaluation task of a frame."""
    return EvaluateTask(
        federation=frame.get("federation", str),
        round=frame.get("round", int),
        adapter=_adapter(frame, schema),
        temperature=frame.get("temperature", float),
        against=frame.get("against", str),
        attempt=frame.get("attempt", int),
    )


def capabilities_frame(can: Capabilities) -> Frame:
    """What a client says of itself."""
    return Frame({**asdict(can), "schema": can.schema.to_json()})


def capabilities(frame: Frame) -> Capabilities:
    """What a client says of itself, read back."""
    values = dict(frame.fields)
    for key in ("reward_names", "metrics"):
        values[key] = tuple(values[key])
    return Capabilities(**{**values, "schema": AdapterSchema.from_json(values["schema"])})


def update_frame(update: Update) -> Frame:
    """What a client learned."""
    counts = {"num_steps": update.num_steps, "num_examples": update.num_examples}
    return Frame({**counts, "metrics": update.metrics}, update.delta)


def update(frame: Frame) -> Update:
    """What a client learned, read back."""
    if frame.vector is None:
        raise ProtocolError("frame", "an update has a delta")
    steps, examples = frame.get("num_steps", int), frame.get("num_examples", int)
    return Update(delta=frame.vector, num_steps=steps, num_examples=examples, metrics=frame.fields["metrics"])


def evaluation_frame(found: Evaluation) -> Frame:
    """A client's counts."""
    return Frame({"total": asdict(found.total), "classes": {name: asdict(t) for name, t in found.classes.items()}})


def evaluation(frame: Frame) -> Evaluation:
    """A client's counts, read back."""
    classes = {name: Tally(**counts) for name, counts in frame.fields["classes"].items()}
    return Evaluation(total=Tally(**frame.fields["total"]), classes=classes)


def _adapter(frame: Frame, schema: AdapterSchema) -> Adapter:
    if frame.fields.get("schema") != schema.sha256 or frame.vector is None or frame.vector.size != schema.size:
        raise ProtocolError("schema", "the task is for an adapter of other shapes")
    if not np.isfinite(frame.vector).all():
        raise ProtocolError("not-finite", "the adapter holds NaN or infinity")
    return Adapter(schema, frame.vector)
