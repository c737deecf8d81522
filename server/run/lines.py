"""Frozen dataclasses as JSON lines and back: fields and types are checked, and an error names file and line."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from ...common.errors import RunError
from ...common.foreign import quoted
from ...common.storage.jsonl import Entry, numbered_lines

Line = TypeVar("Line")
OTHERS: Mapping[str, tuple[str, ...]] = {"keys": ()}
"""Metadata of a field that holds all metrics of a line, by `area/name`, that no other field does."""
MAX_INTEGER = 1 << 62
"""A larger whole number is not taken as a float."""
WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def metric(name: str, before: str, default: Any = MISSING) -> Any:
    """Return a field that is written as `area/name`.

    Args:
        before: its name in format 1, which is read too.
    """
    return field(default=default, metadata={"keys": (name, before)})


def as_entry(line: object) -> Entry:
    """Return a dataclass as a JSON object. What is None is left out."""
    entry: Entry = {}
    for name, keys in _keys(type(line)).items():
        value = getattr(line, name)
        if not keys:
            entry |= value
        elif value is not None:
            entry[keys[0]] = _plain(value)
    return entry


def parsed(kind: type[Line], entry: Mapping[str, object]) -> Line:
    """Return the dataclass that a JSON object stands for. Keys that it does not have are passed over.

    Raises:
        ValueError: a field is missing or has another type; names it.
    """
    hints, values, known = _hints(kind), dict[str, Any](), set[str]()
    rest = ""
    for name, keys in _keys(kind).items():
        known |= set(keys)
        key = next((key for key in keys if key in entry), None)
        if not keys:
            rest = name
        elif key is not None:
            values[name] = _value(hints[name], entry[key], key)
        elif name in _required(kind):
            raise ValueError(f"{keys[0]} is missing")
    if rest:
        others = {key: value for key, value in entry.items() if "/" in key and key not in known}
        values[rest] = _value(hints[rest], others, "a metric")
    return kind(**values)


def read_typed(path: Path, parse: Callable[[Entry], Line]) -> list[Line]:
    """Read all whole lines of a file.

    Args:
        parse: makes a typed line of a JSON object; raises ValueError where it cannot (`parsed`).

    Raises:
        RunError: a line is damaged; names file, line and field.
    """
    lines: list[Line] = []
    for number, entry in numbered_lines(path):
        try:
            lines.append(parse(entry))
        except ValueError as error:
            raise RunError(
                f"{path}, line {number} is damaged: {error}. Restore the file from a copy, or read the run with the "
                "version of fedgrpo that wrote it."
            ) from error
    return lines


def _value(hint: Any, value: Any, what: str) -> Any:
    """Return a JSON value as the type that a field declares."""
    if hint in WORDS:
        return _scalar(hint, value, what)
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):  # a type or None
        return None if value is None else _value(inner[0], value, what)
    if is_dataclass(hint) and isinstance(value, dict):
        return parsed(cast("type[object]", hint), cast(Entry, value))
    if origin is dict and isinstance(value, dict):
        table = cast(Entry, value)
        if inner[1] in WORDS and all(type(item) is inner[1] for item in table.values()):
            return table  # most of a file is these: in a long run they are read after each round
        return {key: _value(inner[1], item, f"{key} in {what}") for key, item in table.items()}
    if origin is tuple and isinstance(value, list):
        items = cast("list[object]", value)
        kinds = inner[:1] * len(items) if inner[-1] is Ellipsis else inner
        if len(kinds) == len(items):
            return tuple(_value(kind, item, what) for kind, item in zip(kinds, items, strict=True))
    raise ValueError(f"{what} is {quoted(cast(object, value))}, which is something else than it should be")


def _scalar(hint: Any, value: Any, what: str) -> Any:
    if hint is float and type(value) is int and abs(value) <= MAX_INTEGER:
        return float(value)
    if type(value) is not hint:  # bool is a subclass of int
        raise ValueError(f"{what} is {quoted(value)}, not {WORDS[hint]}")
    return value


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return as_entry(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in cast("dict[str, Any]", value).items()}
    return value


@cache
def _hints(kind: type[object]) -> dict[str, Any]:
    return get_type_hints(kind)


@cache
def _keys(kind: type[object]) -> dict[str, tuple[str, ...]]:
    """Field -> its keys in a line: the present one, then that of format 1. None for a field of OTHERS."""
    return {f.name: f.metadata.get("keys", (f.name,)) for f in fields(cast(Any, kind))}


@cache
def _required(kind: type[object]) -> frozenset[str]:
    return frozenset(f.name for f in fields(cast(Any, kind)) if f.default is MISSING and f.default_factory is MISSING)
