"""Bounds of settings, with uniform messages: the name, the value, the bound, and the reason."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from .errors import ConfigError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Of an organisation or a federation: it is part of file names, and of lines that people compare."""


def at_least(name: str, value: float, low: float, why: str) -> None:
    """Refuse a value below `low`, or one that is not finite."""
    if not math.isfinite(value) or value < low:
        raise ConfigError(f"{name} is {value}, but must be at least {low:g}: {why}.")


def between(
    name: str, value: float, low: float, high: float, why: str, *, open_low: bool = False, open_high: bool = False
) -> None:
    """Refuse a value outside [low, high]; an open end refuses the end itself too."""
    below = value <= low if open_low else value < low
    above = value >= high if open_high else value > high
    if not math.isfinite(value) or below or above:
        lower = "above" if open_low else "at least"
        upper = "below" if open_high else "at most"
        raise ConfigError(f"{name} is {value}, but must be {lower} {low:g} and {upper} {high:g}: {why}.")


def one_of(name: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a value that is not in `choices`."""
    if value not in choices:
        raise ConfigError(f"{name} is {value!r}, but must be one of: {', '.join(choices)}.")
