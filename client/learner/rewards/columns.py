"""What some rewards need in addition to the completion: columns of the data as JSON text, and optional libraries."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from ....common.errors import ConfigError

TOLERANCE = 1e-9
"""Relative tolerance between two numbers with a fraction. A whole number is exact: it rounds nothing."""


def column(reward: str, name: str, values: Sequence[Any] | None) -> Sequence[Any]:
    """Return a column that a reward needs.

    Raises:
        ConfigError: the data do not have the column.
    """
    if values is None:
        raise ConfigError(
            f"The reward {reward} needs a column {name!r} beside question and answer, but the data do not have it. Add "
            "it, and name it in data.labels of the organisation's file."
        )
    return values


def from_json(reward: str, name: str, value: Any) -> Any:
    """Return the value of a column: parsed if it is a JSON text, else as it is.

    Raises:
        ValueError: it is a text that is not JSON.
    """
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{reward} needs JSON in the column {name!r}, not {value[:60]!r}") from error


def library(reward: str, module: str) -> ModuleType:
    """Import an optional library.

    Raises:
        ConfigError: it is not installed; names the extra that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"The reward {reward} needs {module}, which is not installed here ({error}). "
            "Install it where the learner runs: pip install 'fedgrpo[rewards]'."
        ) from error


def same_value(one: Any, other: Any) -> bool:
    """Return whether two JSON values are equal: `1` and `1.0` are, `1` and `true` are not, nor are `"a"` and `"A"`.

    Two floats may differ by 1e-9 of the larger. Where one of two numbers is an integer they must be equal, at any depth
    of a list or an object. Call it on plain values from `json.loads` only, whose `==` cannot be overridden.

    >>> same_value({"a": [1, 0.1 + 0.2]}, {"a": [1.0, 0.3]}), same_value(1, True), same_value(1 + 1e-12, 1)
    (True, False, False)
    """
    if isinstance(one, bool) or isinstance(other, bool) or one is None or other is None:
        return one is other
    if isinstance(one, float) and isinstance(other, float):
        return one == other or math.isclose(one, other, rel_tol=TOLERANCE)
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return one == other  # Python compares an int and a float exactly, however large they are
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same_value(one[key], other[key]) for key in other)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same_value, one, other))
    return type(one) is type(other) and one == other
