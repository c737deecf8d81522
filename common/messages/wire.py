"""What crosses the network, as Flower records: one flat array, and a few named numbers and strings.

An array travels as raw little-endian float32, or packed (`codecs.py`), with a type tag of ours: the receiver knows
size and codec beforehand, so no parser ever meets a hostile array header (docs/security.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from ..adapter.schema import Vector
from ..errors import ProtocolError
from . import compression

PROTOCOL = 3
KIND = "fedgrpo."
"""Begins an array's type tag; the codec follows."""
HEADER, VECTOR, METRICS = "header", "vector", "metrics"

Header = dict[str, int | float | str | bool]


def pack(header: Mapping[str, int | float | str | bool], *, array: ArrayRecord | None = None) -> RecordDict:
    """A message's content: a header, and an array if there is one.

    Args:
        array: what `packed` made of a vector; several messages share it without a copy.
    """
    content = RecordDict({HEADER: ConfigRecord({"protocol": PROTOCOL, **header})})
    if array is not None:
        content[VECTOR] = array
    return content


def packed(vector: Vector, codec: str = "fp32") -> ArrayRecord:
    """A vector, rounded by the codec, as the record that carries it."""
    return ArrayRecord({VECTOR: Array(codec, (vector.size,), KIND + codec, compression.packed(vector, codec))})


def header_of(content: RecordDict) -> Header:
    """The header of a message of this protocol version.

    Raises:
        ProtocolError: there is none, it is of another version, or holds lists or bytes.
    """
    record = content.config_records.get(HEADER)
    if record is None or record.get("protocol") != PROTOCOL:
        raise ProtocolError("version", f"the message is not of protocol {PROTOCOL}; every party needs the same version")
    scalars = {k: v for k, v in record.items() if isinstance(v, (int, float, str, bool))}
    if len(scalars) != len(record):
        raise ProtocolError("header", "the header holds something else than numbers, true or false, and text")
    return scalars


def vector_of(content: RecordDict, size: int, codec: str = "fp32") -> Vector:
    """The one array of a message, which must hold exactly `size` finite numbers, packed by `codec`.

    Raises:
        ProtocolError: anything else.
    """
    records = content.array_records
    if list(records) != [VECTOR] or list(records[VECTOR]) != [VECTOR]:
        raise ProtocolError("array-names", "the message must hold exactly one array")
    array = records[VECTOR][VECTOR]
    if (array.dtype, array.stype) != (codec, KIND + codec) or tuple(array.shape) != (size,):
        raise ProtocolError("array-type", f"the array must be {codec} of shape ({size},)")
    vector = compression.unpacked(array.data, size, codec)
    with np.errstate(over="ignore", invalid="ignore"):
        surely = math.isfinite(float(np.dot(vector, vector)))  # one pass; overflows only where values are absurd
    if not surely and not np.isfinite(vector).all():
        raise ProtocolError("not-finite", "the array holds NaN or infinity")
    return vector


def metrics_of(content: RecordDict, names: frozenset[str], limit: float = 1e15) -> dict[str, float]:
    """The metrics of a message: exactly `names`, each a finite float of magnitude at most `limit`.

    Raises:
        ProtocolError: a name too many or too few, another type, or a value that is not finite or too large.
    """
    record = content.metric_records.get(METRICS)
    if record is None or frozenset(record) != names:
        raise ProtocolError("metric-names", "the metrics are not the ones agreed on when the client joined")
    metrics: dict[str, float] = {}
    for name, value in record.items():
        if type(value) is not float or not abs(value) <= limit:
            raise ProtocolError("metric-value", f"metric {name} is no finite float within {limit:g}")
        metrics[name] = value
    return metrics


def with_metrics(content: RecordDict, metrics: Mapping[str, float]) -> RecordDict:
    """`content` with a record of metrics added."""
    content[METRICS] = MetricRecord({name: float(value) for name, value in metrics.items()})
    return content


def wire_bytes(content: RecordDict) -> int:
    """Bytes of a message's content as Flower stores and sends it, before transport framing."""
    return sum(len(item.deflate()) for item in get_all_nested_objects(content).values())
