"""What some rewards need besides the completion: columns of the data, as JSON text, and libraries of an extra."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from ....common.errors import ConfigError

TOLERANCE = 1e-9
"""Relative, between two numbers of which one is no whole number."""


def column(reward: str, name: str, values: Sequence[Any] | None) -> Sequence[Any]:
    """A column that a reward needs.

    Raises:
        ConfigError: the data have none of this name.
    """
    if values is None:
        raise ConfigError(
            f"The reward {reward} needs a column {name!r} beside question and answer, and the data have none. Add it, "
            "and name it in data.labels of the organisation's file."
        )
    return values


def from_json(reward: str, name: str, value: Any) -> Any:
    """What a column holds; a JSON text, or already what it says.

    Raises:
        ValueError: it is a text that is no JSON.
    """
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{reward} wants JSON in the column {name!r}, not {value[:60]!r}") from error


def library(reward: str, module: str) -> ModuleType:
    """An optional library.

    Raises:
        ConfigError: it is not installed; says with which extra it comes.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"The reward {reward} needs {module}, which is not installed here ({error}). "
            "Install it where the learner runs: pip install 'fedgrpo[rewards]'."
        ) from error


def same_value(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same: `1` and `1.0` are, `1` and `true` are not, nor are `"a"` and `"A"`.

    Numbers with a fraction may differ by 1e-9 of the larger. Call it on plain values out of `json.loads` only, whose
    `==` nobody has rewritten.

    >>> same_value({"a": [1, 0.1 + 0.2]}, {"a": [1.0, 0.3]}), same_value(1, True)
    (True, False)
    """
    if isinstance(one, bool) or isinstance(other, bool) or one is None or other is None:
        return one is other
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return one == other or _close(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same_value(one[key], other[key]) for key in other)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same_value, one, other))
    return type(one) is type(other) and one == other


def _close(one: float, other: float) -> bool:
    whole = isinstance(one, int) and isinstance(other, int)
    try:
        return not whole and math.isclose(one, other, rel_tol=TOLERANCE)
    except OverflowError:  # a whole number that no float can hold
        return False
