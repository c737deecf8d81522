"""Writing and reading a message's fields, for both encodings: Flower records (`wire`) and socket frames (`frames`).

A field is written under its name in kebab-case as one scalar: numbers, booleans and strings as they are, the rest as
the text that `FORMS` gives its type. The fields of a nested dataclass are written as if they were the message's own.
Arrays and metrics travel beside the fields, so reading takes them as arguments.

    >>> from .messages import JoinRequest
    >>> to_fields(JoinRequest(config_sha256="ab"))
    {'config-sha256': 'ab'}
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, cast, get_type_hints

from ..adapter.adapter import Adapter
from ..adapter.schema import AdapterSchema, Vector
from ..errors import ConfigError, ProtocolError
from ..foreign import quoted
from .messages import Tally, Words

Scalar = int | float | str | bool
Message = TypeVar("Message")
SCALARS = (int, float, str, bool)
BESIDE = (Adapter, Vector, Words, dict[str, float])
"""Types that do not travel as fields: arrays and metrics."""
COUNTS = tuple(each.name for each in fields(Tally))


@dataclass(frozen=True, slots=True)
class Form:
    """The text form of a type. `read` may raise anything that Python's parsers raise on hostile text."""

    write: Callable[[Any], str]
    read: Callable[[str], object]


def _read_tallies(text: str) -> dict[str, Tally]:
    """Read `{"total": [10, 5, ...], ...}`: each tally is exactly its counts, and each count exactly an int."""
    tallies: dict[str, Tally] = {}
    for name, counts in json.loads(text).items():
        if not isinstance(counts, list):
            raise ValueError("a tally is a list of counts")
        values = cast("list[object]", counts)
        if len(values) != len(COUNTS) or any(type(value) is not int for value in values):
            raise ValueError(f"a tally has exactly {len(COUNTS)} integers")
        tallies[str(name)] = Tally(**dict(zip(COUNTS, cast("list[int]", values), strict=True)))
    return tallies


def _write_tallies(tallies: Mapping[str, Tally]) -> str:
    return json.dumps({name: [getattr(tally, count) for count in COUNTS] for name, tally in tallies.items()})


def _read_texts(text: str) -> dict[str, str]:
    """Read `{"clinic-a": "0f...", ...}`."""
    items: object = json.loads(text)
    if not isinstance(items, dict):
        raise ValueError("items are an object")
    pairs = cast("dict[str, object]", items)
    if not all(type(value) is str for value in pairs.values()):
        raise ValueError("an item is a text")
    return cast("dict[str, str]", pairs)


FORMS: Mapping[object, Form] = {
    tuple[str, ...]: Form(",".join, lambda text: tuple(text.split(",")) if text else ()),
    AdapterSchema: Form(lambda schema: schema.to_json(), AdapterSchema.from_json),
    dict[str, Tally]: Form(_write_tallies, _read_tallies),
    dict[str, str]: Form(lambda items: json.dumps(items, sort_keys=True), _read_texts),
}


def to_fields(message: object, *, network: bool = True) -> dict[str, Scalar]:
    """Write a message's fields.

    Args:
        network: also those that only server and relay need.
    """
    written: dict[str, Scalar] = {}
    for each, kind in _fields(type(message)):
        value = getattr(message, each.name)
        if not network and "network_only" in each.metadata:
            continue
        if _is_nested(kind):
            written |= to_fields(value)
        else:
            written[_key(each.name)] = FORMS[kind].write(value) if kind in FORMS else cast(Scalar, kind(value))
    return written


def from_fields(
    kind: type[Message], values: Mapping[str, object], beside: Mapping[str, object], *, network: bool = True
) -> Message:
    """Read a message whose fields are exactly `values`.

    Args:
        beside: the arrays and metrics, which travel beside the fields.
        network: whether `values` holds the fields that only server and relay need; their defaults are used otherwise.

    Raises:
        ProtocolError: a field is missing, unknown or of another type, or its text cannot be read.
    """
    expected = set(keys(kind, network=network))
    if set(values) != expected:
        different = quoted(min(set(values) ^ expected))
        raise ProtocolError("header", f"the header does not have exactly the agreed fields: {different}")
    return _read(kind, values, network, beside)


def keys(kind: type, *, network: bool = True) -> Iterator[str]:
    """Yield the names under which a message's fields are written."""
    for each, field_type in _fields(kind):
        if not network and "network_only" in each.metadata:
            continue
        if _is_nested(field_type):
            yield from keys(field_type)
        else:
            yield _key(each.name)


def _read(kind: type[Message], values: Mapping[str, object], network: bool, beside: Mapping[str, object]) -> Message:
    arguments = dict(beside)
    for each, field_type in _fields(kind):
        if not network and "network_only" in each.metadata:
            assert each.default is not MISSING
        elif _is_nested(field_type):
            arguments[each.name] = _read(field_type, values, network, {})
        else:
            arguments[each.name] = _value(_key(each.name), values[_key(each.name)], field_type)
    return kind(**arguments)


def _value(key: str, value: object, kind: object) -> object:
    expected = str if kind in FORMS else kind
    if type(value) is not expected:  # not isinstance: bool is a subclass of int
        raise ProtocolError("header", f"{key} is {quoted(value)}, which is of another type than agreed")
    if kind not in FORMS:
        return value
    try:
        return FORMS[kind].read(cast(str, value))
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError, ConfigError) as error:
        raise ProtocolError(key, f"{key} cannot be read: {quoted(error)}") from error


@cache
def _fields(kind: type) -> tuple[tuple[Field[Any], Any], ...]:
    """The dataclass fields that are written, with their types."""
    hints = get_type_hints(kind)
    found = tuple((each, hints[each.name]) for each in fields(kind) if hints[each.name] not in BESIDE)
    for each, field_type in found:
        assert field_type in (*SCALARS, *FORMS) or is_dataclass(field_type), f"{kind.__name__}.{each.name} has no form"
    return found


def _is_nested(kind: Any) -> bool:
    return is_dataclass(kind) and kind not in FORMS


def _key(name: str) -> str:
    return name.replace("_", "-")
