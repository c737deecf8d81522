"""Settings in sections: frozen dataclasses to and from TOML and flat `section.name-in-kebab-case` keys.

A settings object is a dataclass whose fields are sections, which are dataclasses whose fields are settings. Its type
defines the keys, its defaults define the type of each setting, and `__post_init__` of a section checks the bounds.
"""

from __future__ import annotations

import difflib
import json
import tomllib
import types
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from ..errors import ConfigError

Setting = int | float | str | bool | tuple[str, ...]
Settings = TypeVar("Settings", bound=Any)
LARGEST_INT = 1 << 53
KINDS = types.MappingProxyType(
    {int: "a whole number", float: "a number", str: "text", bool: "true or false", tuple: "a list of texts"}
)


def flat(settings: Any) -> dict[str, Setting]:
    """Return `{"section.name-in-kebab-case": value}`, in the order of definition."""
    return {
        f"{_kebab(section.name)}.{_kebab(setting.name)}": getattr(getattr(settings, section.name), setting.name)
        for section in fields(settings)
        for setting in fields(getattr(settings, section.name))
    }


def with_values(settings: Settings, values: Mapping[str, object], hint: str = "") -> Settings:
    """Return `settings` with some of them replaced.

    Args:
        values: flat kebab keys; an `int` is accepted for a `float` setting.
        hint: end of the message about an unknown key without a similar one.

    Raises:
        ConfigError: a key that does not exist (the nearest is named), a wrong type, a value out of bounds.
    """
    known = flat(settings)
    changes: dict[str, dict[str, Setting]] = {}
    for key, value in values.items():
        if key not in known:
            raise ConfigError(_unknown(key, known, hint))
        section, name = (part.replace("-", "_") for part in key.split(".", 1))
        changes.setdefault(section, {})[name] = _coerced(key, value, known[key])
    return replace(settings, **{name: replace(getattr(settings, name), **new) for name, new in changes.items()})


def to_toml(settings: Any) -> str:
    """Return the settings as TOML that `read_toml` reads back to equal values."""
    lines: list[str] = []
    for section in fields(settings):
        lines += [f"[{_kebab(section.name)}]"]
        values = getattr(settings, section.name)
        lines += [f"{_kebab(s.name)} = {_toml(getattr(values, s.name))}" for s in fields(values)]
        lines += [""]
    return "\n".join(lines)


def read_toml(path: Path, kind: str) -> dict[str, object]:
    """Read the flat keys and values of a TOML file with sections.

    Raises:
        ConfigError: the file is missing or not TOML, or a key is outside a section; names the file.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # a byte order mark, as Windows editors put it
    except OSError as error:
        raise ConfigError(f"Cannot read the {kind} {path}: {error.strerror}.") from error
    except (ValueError, OverflowError, RecursionError) as error:
        raise ConfigError(f"{path} is not TOML: {error}.") from error
    values: dict[str, object] = {}
    for section, table in tables.items():
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: {section} is outside a section. Put it below a [section] header.")
        values |= {f"{section}.{key}": value for key, value in cast(dict[str, object], table).items()}
    return values


def _coerced(key: str, value: object, default: Setting) -> Setting:
    kind = type(default)
    if kind is float and type(value) is int and abs(value) <= LARGEST_INT:
        return float(value)
    if kind is tuple and isinstance(value, (list, tuple)):
        items = cast(tuple[object, ...], tuple(value))  # pyright: ignore[reportUnknownArgumentType]
        texts = tuple(item for item in items if isinstance(item, str) and _is_text(item))
        if len(texts) == len(items):
            return texts
    if isinstance(value, int) and abs(value) > LARGEST_INT:
        raise ConfigError(f"{key} is {value}, but whole numbers must be at most 2^53.")
    if type(value) is not kind:  # pyright: ignore[reportUnknownArgumentType]
        raise ConfigError(f"{key} is {value!r}, but must be {KINDS[kind]}.")
    if isinstance(value, str) and not _is_text(value):
        raise ConfigError(f"{key} contains characters that are not valid text.")
    return cast(Setting, value)


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _toml(value: Setting) -> str:
    """Return a value in TOML's syntax: that of JSON, except for DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _kebab(name: str) -> str:
    return name.replace("_", "-")


def _unknown(key: str, known: Mapping[str, Setting], hint: str) -> str:
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if not close:  # maybe the right name in the wrong section
        tail = key.rpartition(".")[2]
        close = [name for name in known if name.rpartition(".")[2] == tail][:1]
    return f"There is no setting {key}.{f' Did you mean {close[0]}?' if close else hint}"
