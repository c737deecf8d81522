"""Messages as bytes, for the socket between relay and learner and for the learner's cache of results.

One line of JSON, a newline, then the raw little-endian float32 of the one array, if there is one. Nothing else is
parsed, and the array's exact size is known from the schema. Both ends are the organisation's own, and check anyway.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import numpy as np

from ..adapter.adapter import Adapter
from ..adapter.schema import AdapterSchema, Vector
from ..errors import ProtocolError
from .encoding import Message, from_fields, keys, to_fields
from .messages import NO_WORDS, EvaluateTask, SecaggReply, SumPart, TrainTask, Update, Words

VERSION = 4
MAX_FIELDS_BYTES = 8_000_000
Scalar = TypeVar("Scalar", int, float, str)
Task = TypeVar("Task", TrainTask, EvaluateTask)


@dataclass(frozen=True, slots=True)
class Frame:
    """Fields, and a vector (float32, any length) or a part of a sum (`words`)."""

    fields: dict[str, Any]
    vector: Vector | None = None
    words: Words = field(default_factory=lambda: NO_WORDS)

    def pack(self) -> bytes:
        """Return the frame as bytes."""
        kind = {"words": self.words.itemsize} if self.words.size else {}
        line = json.dumps({"version": VERSION, **kind, **self.fields}, separators=(",", ":")).encode()
        array = self.words.tobytes() if self.vector is None else self.vector.astype("<f4", copy=False).tobytes()
        return line + b"\n" + array

    @classmethod
    def unpack(cls, data: bytes) -> Frame:
        """Read what `pack` wrote.

        Raises:
            ProtocolError: it is not a frame of this version.
        """
        line, newline, array = data.partition(b"\n")
        try:
            fields = json.loads(line) if newline and len(line) <= MAX_FIELDS_BYTES else None
        except (ValueError, RecursionError):
            fields = None
        known = cast(dict[str, Any], fields) if isinstance(fields, dict) else {}
        itemsize = known.pop("words", 0)
        if not known or itemsize not in (0, 2, 4) or len(array) % (itemsize or 4):
            raise ProtocolError("frame", "this is not a frame: a line of JSON, then an array")
        if known.pop("version", None) != VERSION:
            raise ProtocolError("version", f"relay and learner need the same fedgrpo; this is version {VERSION}")
        if itemsize:
            return cls(known, None, np.frombuffer(array, f"<u{itemsize}"))
        return cls(known, np.frombuffer(array, dtype="<f4").astype(np.float32, copy=False) if array else None)

    def get(self, key: str, kind: type[Scalar]) -> Scalar:
        """Return a field of exactly this type.

        Raises:
            ProtocolError: it is missing or of another type.
        """
        value = self.fields.get(key)
        if type(value) is not kind:  # not isinstance: bool is a subclass of int
            raise ProtocolError("header", f"{key} is missing or has another type")
        return cast(Scalar, value)


def frame_of(message: object) -> Frame:
    """Return a message as a frame, without the fields that only server and relay need."""
    fields: dict[str, Any] = dict(to_fields(message, network=False))
    if isinstance(message, TrainTask | EvaluateTask):
        return Frame({**fields, "schema": message.adapter.schema.sha256}, message.adapter.vector)
    if isinstance(message, SumPart | SecaggReply):
        return Frame(fields, None, message.words)
    if isinstance(message, Update):
        return Frame({**fields, "metrics": message.metrics}, message.delta)
    return Frame(fields)


def task_of(kind: type[Task], frame: Frame, schema: AdapterSchema) -> Task:
    """Read a task, whose adapter has this schema.

    Raises:
        ProtocolError: the frame holds another message, or an adapter of other shapes.
    """
    if frame.fields.get("schema") != schema.sha256 or frame.vector is None or frame.vector.size != schema.size:
        raise ProtocolError("schema", "the task is for an adapter of other shapes")
    if not np.isfinite(frame.vector).all():
        raise ProtocolError("not-finite", "the adapter holds NaN or infinity")
    return from_fields(kind, _own(kind, frame), {"adapter": Adapter(schema, frame.vector)}, network=False)


def update_of(frame: Frame) -> Update:
    """Read what a learner learned.

    Raises:
        ProtocolError: the frame holds another message.
    """
    if frame.vector is None:
        raise ProtocolError("frame", "the update has no delta")
    beside = {"delta": frame.vector, "metrics": frame.fields.get("metrics")}
    return from_fields(Update, _own(Update, frame), beside, network=False)


def words_message_of(kind: type[Message], frame: Frame) -> Message:
    """Read a message that carries a part of a sum, which may be empty.

    Raises:
        ProtocolError: the frame holds another message.
    """
    return from_fields(kind, _own(kind, frame), {"words": frame.words}, network=False)


def message_of(kind: type[Message], frame: Frame) -> Message:
    """Read a message without an array.

    Raises:
        ProtocolError: the frame holds another message.
    """
    return from_fields(kind, _own(kind, frame), {}, network=False)


def _own(kind: type, frame: Frame) -> dict[str, Any]:
    """Return the message's own fields: a request also names the job, the run's settings and the policy."""
    return {key: frame.fields[key] for key in keys(kind, network=False) if key in frame.fields}
