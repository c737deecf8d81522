"""RunConfig: all settings of a run, to and from Flower's flat dictionary and scenario TOML."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import tomllib
import types
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from . import settings
from .errors import ConfigError
from .grpo_settings import GRPO

Value = int | float | str | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """Every setting of a run. Frozen: two parties with the same `sha256` run the same experiment."""

    federation: settings.Federation = field(default_factory=settings.Federation)
    model: settings.Model = field(default_factory=settings.Model)
    adapter: settings.Lora = field(default_factory=settings.Lora)
    grpo: GRPO = field(default_factory=GRPO)
    train: settings.Train = field(default_factory=settings.Train)
    aggregation: settings.Aggregation = field(default_factory=settings.Aggregation)
    intake: settings.Intake = field(default_factory=settings.Intake)
    evaluation: settings.Evaluation = field(default_factory=settings.Evaluation)
    simulation: settings.Simulation = field(default_factory=settings.Simulation)
    output: settings.Output = field(default_factory=settings.Output)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of one client over the whole federation: the learning-rate schedule's length."""
        return self.federation.rounds * self.train.steps_per_round

    @property
    def prompts_per_round(self) -> int:
        """Prompts a client trains on in a round: each batch of completions is used `num_iterations` times."""
        batches = math.ceil(self.train.steps_per_round / self.grpo.num_iterations)
        return batches * self.grpo.prompts_per_step

    @property
    def sha256(self) -> str:
        """Hash over all settings that decide the result: not where it is written, nor by how many processes."""
        same = {k: v for k, v in self.flat().items() if not k.startswith("output.") and k != "simulation.workers"}
        return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()

    def flat(self) -> dict[str, Value]:
        """`{"section.name-in-kebab-case": value}`, in the order of definition."""
        return {
            f"{section.name}.{_kebab(setting.name)}": getattr(getattr(self, section.name), setting.name)
            for section in fields(self)
            for setting in fields(getattr(self, section.name))
        }

    def with_values(self, values: Mapping[str, Value]) -> RunConfig:
        """This configuration with some settings replaced.

        Args:
            values: flat kebab keys; an `int` is taken where a setting is a `float`.

        Raises:
            ConfigError: a key that does not exist (the nearest is named), a wrong type, a value out of bounds.
        """
        known = self.flat()
        odd = [key for key, value in values.items() if isinstance(value, str) and not _is_text(value)]
        if odd:
            raise ConfigError(f"{odd[0]} holds characters that are no text.")
        changes: dict[str, dict[str, Value]] = {}
        for key, value in values.items():
            if key not in known:
                raise ConfigError(_unknown(key, known))
            section, name = key.split(".", 1)
            changes.setdefault(section, {})[name.replace("-", "_")] = _coerce(key, value, known[key])
        sections = {name: replace(getattr(self, name), **change) for name, change in changes.items()}
        return replace(self, **sections)

    def to_toml(self) -> str:
        """The settings as a scenario file that `load_scenario` reads back to an equal configuration."""
        lines: list[str] = []
        for section in fields(self):
            lines += [f"[{section.name}]"]
            values = getattr(self, section.name)
            lines += [f"{_kebab(s.name)} = {_toml(getattr(values, s.name))}" for s in fields(values)]
            lines += [""]
        return "\n".join(lines)


def load_scenario(path: Path) -> RunConfig:
    """Read a scenario TOML over the defaults.

    Raises:
        ConfigError: the file is absent, is no TOML, or a setting in it is wrong; the file is named.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Cannot read the scenario {path}: {error.strerror}.") from error
    except (ValueError, OverflowError, RecursionError) as error:
        raise ConfigError(f"{path} is not TOML: {error}.") from error
    try:
        return RunConfig().with_values(_flatten(tables))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def parse_override(text: str) -> tuple[str, Value]:
    """Split `section.key=value`; the value is read as TOML, and as a plain string where it is no TOML value.

    >>> parse_override("grpo.beta=0.04"), parse_override("model.name=Qwen/Qwen2.5-0.5B-Instruct")
    (('grpo.beta', 0.04), ('model.name', 'Qwen/Qwen2.5-0.5B-Instruct'))
    """
    key, separator, raw = text.partition("=")
    if not separator or "." not in key:
        raise ConfigError(f"--set {text} is not of the form section.key=value, as in grpo.beta=0.04.")
    try:
        value = tomllib.loads(f"value = {raw.strip()}")["value"]
    except (ValueError, OverflowError, RecursionError):
        value = raw.strip()
    if not isinstance(value, (int, float, str)):
        raise ConfigError(f"--set {text}: a setting is a number, true or false, or text.")
    return key.strip(), value


def _flatten(tables: Mapping[str, object]) -> dict[str, Value]:
    flat: dict[str, Value] = {}
    for section, table in tables.items():
        if not isinstance(table, dict):
            raise ConfigError(f"{section} stands outside a section. Put it below a [section] header.")
        for key, value in table.items():  # pyright: ignore[reportUnknownVariableType]
            if not isinstance(value, (int, float, str)):
                raise ConfigError(f"{section}.{key} is neither a number, true or false, nor text.")
            flat[f"{section}.{key}"] = value
    return flat


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _toml(value: Value) -> str:
    """A value as TOML writes it: as JSON does, but for characters beyond the basic plane and DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _kebab(name: str) -> str:
    return name.replace("_", "-")


def _coerce(key: str, value: Value, default: Value) -> Value:
    wanted = type(default)
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        names = types.MappingProxyType({int: "a whole number", float: "a number", str: "text", bool: "true or false"})
        raise ConfigError(f"{key} is {value!r}, but must be {names[wanted]}.")
    return value


def _unknown(key: str, known: Mapping[str, Value]) -> str:
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if not close:  # perhaps the right name in the wrong section
        tail = key.rpartition(".")[2]
        close = [name for name in known if name.rpartition(".")[2] == tail][:1]
    hint = f" Did you mean {close[0]}?" if close else " `fedgrpo simulate --list-settings` prints them all."
    return f"There is no setting {key}.{hint}"
