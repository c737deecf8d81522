"""One value of a table: finding it, also inside another by a dotted name, and its text.

The text is what the file means, whatever the format: text stays as it is, numbers are written out (0.00005, never
5e-05), true and false are `true` and `false`, and a date or time is written as in ISO 8601 (2026-03-01T12:00:00).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from math import isfinite
from typing import Any, cast

from ....common.errors import DataError

MAX_EXPONENT = 400
"""Beyond that of any float; a number of a file with a larger one would fill the memory when it is written out."""
SHOWN_COLUMNS = 20
MAX_DEPTH = 8
"""Of the dotted names that a message lists."""


class WrittenNumber(float):
    """A number of a JSON text with the digits that the text has, of which a float may keep fewer."""

    __slots__ = ("digits",)
    digits: str

    def __new__(cls, digits: str) -> WrittenNumber:
        """Return the number of a JSON literal, for `json.loads(..., parse_float=WrittenNumber)`."""
        number = super().__new__(cls, digits)
        number.digits = digits
        return number


def text_of(where: str, row: Mapping[str, Any], name: str) -> str:
    """Return a column of a row as text.

    Args:
        where: the row's place, for messages.
        name: the column; `a.b` is the field `b` in the column `a`, `a.0` the first item of the list in it.

    Raises:
        DataError: it is missing, empty, or has no text, as a list has none.
    """
    value = value_at(row, name)
    text = as_text(value)
    if text is None:
        columns = [path for key, each in row.items() for path in _paths(str(key), each)]
        shown = ", ".join(columns[:SHOWN_COLUMNS]) + (", ..." if len(columns) > SHOWN_COLUMNS else "")
        inside = [path for path in columns if path.startswith(f"{name}.")]
        hint = f" Name what is inside it: {inside[-1]}." if inside else ""
        raise DataError(f"{where} has no text or number in column {name!r}.{hint} Its columns: {shown or 'none'}.")
    if not text.strip():
        raise DataError(f"{where} has an empty column {name!r}.")
    return text


def value_at(row: Mapping[str, Any], name: str) -> Any:
    """Return the value of a column, by its name or by a dotted path; None if there is none.

    >>> value_at({"prompt": [{"content": "1+1?"}], "a.b": 3}, "prompt.0.content"), value_at({"a.b": 3}, "a.b")
    ('1+1?', 3)
    """
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        if isinstance(value, Mapping):
            value = cast(Mapping[str, Any], value).get(part)
        elif isinstance(value, (list, tuple)) and part.isdecimal() and len(part) < 10:
            items = cast(list[Any], value)
            value = items[int(part)] if int(part) < len(items) else None
        else:
            return None
    return value


def as_text(value: Any) -> str | None:
    """Return a value as text; None if it has none: a list, an object, bytes, a duration, a number that is not finite.

    >>> as_text("1e3"), as_text(5e-05), as_text(1e16), as_text(True)
    ('1e3', '0.00005', '10000000000000000', 'true')
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, (float, Decimal)):
        return _written_out(value) if isfinite(value) else None
    return value.isoformat() if isinstance(value, (date, datetime, time)) else None


def _written_out(number: float | Decimal) -> str:
    digits = number.digits if isinstance(number, WrittenNumber) else str(number)
    if abs(Decimal(digits).adjusted()) > MAX_EXPONENT:
        digits = repr(float(number))
    return f"{Decimal(digits):f}"


def _paths(name: str, value: Any) -> Iterator[str]:
    """Yield the dotted names of all that a column holds; of a list only the first item's."""
    inside: list[tuple[str, Any]] = []
    if isinstance(value, Mapping):
        inside = [(str(key), each) for key, each in cast(Mapping[str, Any], value).items()]
    elif isinstance(value, (list, tuple)):
        inside = [("0", each) for each in cast(list[Any], value)[:1]]
    if not inside or name.count(".") > MAX_DEPTH:
        yield name
        return
    for key, each in inside:
        yield from _paths(f"{name}.{key}", each)
