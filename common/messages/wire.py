"""Messages as Flower records: a header of named scalars, at most one flat array, and metrics.

An array travels as raw little-endian float32 or compressed (`adapter.compression`), with a type tag of our own: the
receiver knows size and codec beforehand, so no parser ever sees a hostile array header (docs/security.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from ..adapter import compression
from ..adapter.schema import Vector
from ..errors import ProtocolError
from ..flower_private import get_all_nested_objects
from .encoding import Message, Scalar, from_fields, to_fields
from .messages import Update, Words

PROTOCOL = 5
KIND = "fedgrpo."
"""Begins an array's type tag; the codec follows."""
HEADER, VECTOR, METRICS = "header", "vector", "metrics"
WORDS = {4: "u32", 2: "u16"}
"""Bytes of a number -> the name of its type, for parts of sums."""

Header = dict[str, Scalar]


def record_of(message: object, *, array: ArrayRecord | None = None) -> RecordDict:
    """Return the content of a Flower message: header, metrics if the message has any, and the array.

    Args:
        array: what `packed` made of the message's vector; several messages share it without a copy.
    """
    content = pack(to_fields(message), array=array)
    metrics: Mapping[str, float] | None = message.metrics if isinstance(message, Update) else None
    return content if metrics is None else with_metrics(content, metrics)


def message_of(kind: type[Message], content: RecordDict, **beside: object) -> Message:
    """Read a message whose header holds exactly the fields of `kind`.

    Args:
        beside: its array and metrics, already checked (`vector_of`, `metrics_of`).

    Raises:
        ProtocolError: the header is not exactly that.
    """
    header = header_of(content)
    return from_fields(kind, {key: value for key, value in header.items() if key != "protocol"}, beside)


def pack(header: Mapping[str, Scalar], *, array: ArrayRecord | None = None) -> RecordDict:
    """Return the content of a message with this header, and the array if there is one."""
    content = RecordDict({HEADER: ConfigRecord({"protocol": PROTOCOL, **header})})
    if array is not None:
        content[VECTOR] = array
    return content


def packed(vector: Vector, codec: str = "fp32") -> ArrayRecord:
    """Return the record that carries a vector, which the codec has rounded."""
    return ArrayRecord({VECTOR: Array(codec, (vector.size,), KIND + codec, compression.packed(vector, codec))})


def packed_words(words: Words) -> ArrayRecord:
    """Return the record that carries a part of a sum."""
    kind = WORDS[words.itemsize]
    return ArrayRecord({VECTOR: Array(kind, (words.size,), KIND + kind, words.tobytes())})


def words_of(content: RecordDict, size: int, dtype: np.dtype[np.unsignedinteger[Any]]) -> Words:
    """Return the one array of a message, which must be exactly `size` numbers of this type.

    Raises:
        ProtocolError: anything else.
    """
    array, kind = _array_of(content), WORDS[dtype.itemsize]
    if (array.dtype, array.stype) != (kind, KIND + kind) or tuple(array.shape) != (size,):
        raise ProtocolError("array-type", f"the array must be {kind} of shape ({size},)")
    if len(array.data) != size * dtype.itemsize:
        raise ProtocolError("array-bytes", f"the array has {len(array.data)} bytes, not {size * dtype.itemsize}")
    return np.frombuffer(array.data, dtype)


def header_of(content: RecordDict) -> Header:
    """Return the header of a message of this protocol version.

    Raises:
        ProtocolError: it is missing, of another version, or holds lists or bytes.
    """
    record = content.config_records.get(HEADER)
    if record is None or record.get("protocol") != PROTOCOL:
        raise ProtocolError("version", f"the message is not of protocol {PROTOCOL}; every party needs the same version")
    scalars = {k: v for k, v in record.items() if isinstance(v, (int, float, str, bool))}
    if len(scalars) != len(record):
        raise ProtocolError("header", "header fields must be numbers, booleans or strings")
    return scalars


def vector_of(content: RecordDict, size: int, codec: str = "fp32") -> Vector:
    """Return the one array of a message, which must hold exactly `size` finite numbers, packed by `codec`.

    Raises:
        ProtocolError: anything else.
    """
    array = _array_of(content)
    if (array.dtype, array.stype) != (codec, KIND + codec) or tuple(array.shape) != (size,):
        raise ProtocolError("array-type", f"the array must be {codec} of shape ({size},)")
    vector = compression.unpacked(array.data, size, codec)
    with np.errstate(over="ignore", invalid="ignore"):
        certainly = math.isfinite(float(np.dot(vector, vector)))  # one pass; overflows only where values are absurd
    if not certainly and not np.isfinite(vector).all():
        raise ProtocolError("not-finite", "the array holds NaN or infinity")
    return vector


def _array_of(content: RecordDict) -> Array:
    records = content.array_records
    if list(records) != [VECTOR] or list(records[VECTOR]) != [VECTOR]:
        raise ProtocolError("array-names", "the message must hold exactly one array")
    return records[VECTOR][VECTOR]


def metrics_of(content: RecordDict, names: frozenset[str], limit: float = 1e15) -> dict[str, float]:
    """Return the metrics of a message: exactly `names`, each a finite float of magnitude at most `limit`.

    Raises:
        ProtocolError: a name is unknown or missing, or a value is of another type, not finite or too large.
    """
    record = content.metric_records.get(METRICS)
    if record is None or frozenset(record) != names:
        raise ProtocolError("metric-names", "the metrics are not the ones agreed on when the client joined")
    metrics: dict[str, float] = {}
    for name, value in record.items():
        if type(value) is not float or not abs(value) <= limit:
            raise ProtocolError("metric-value", f"metric {name} is not a finite float within {limit:g}")
        metrics[name] = value
    return metrics


def with_metrics(content: RecordDict, metrics: Mapping[str, float]) -> RecordDict:
    """Add a record of metrics to `content`, and return it."""
    content[METRICS] = MetricRecord({name: float(value) for name, value in metrics.items()})
    return content


def wire_bytes(content: RecordDict) -> int:
    """Return the bytes of a message's content as Flower stores and sends it, before transport framing."""
    return sum(len(item.deflate()) for item in get_all_nested_objects(content).values())
