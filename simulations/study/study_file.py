"""A study file: question, scenario, seeds and arms; checked completely before anything runs."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ...common.errors import ConfigError
from ...common.settings.run_config import RunConfig
from ..engine.runner import all_at_once, scenario
from .arms import FEDERATED, KINDS, runs_of

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
KEYS = ("question", "scenario", "seeds", "baseline", "figure")
FIGURES = ("rounds", "bytes")
DECIDED = {
    "federation.seed": "study.seeds decides it",
    "simulation.only": "the kind of the arm decides it",
    "simulation.workers": "every run has one worker; --jobs says how many runs are played at once",
    "output.dir": "--out decides it",
    "output.run": "the study names its runs",
    "output.nodes": "a study is a simulation",
}
SAME_FOR_ALL = ("evaluation.problems", "evaluation.temperature", "simulation.dataset", "simulation.data")
"""Settings that must be equal, so that all arms answer the same problems in the same way."""
QUICK = {"federation.rounds": 2, "evaluation.problems": 40}
Table = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One way to train that the study compares."""

    name: str
    kind: str
    runs: dict[int, tuple[RunConfig, ...]]
    """Seed -> the settings of its runs: one, or one per client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A study whose settings have all been checked."""

    name: str
    question: str
    scenario: str
    seeds: tuple[int, ...]
    baseline: str
    figure: str
    arms: tuple[Arm, ...]
    quick: bool = False
    """Whether it is a smoke run, which shows that the file works and compares nothing."""

    @property
    def problems(self) -> int:
        """Held-out problems in the settings; the dataset may have fewer."""
        return self.arms[0].runs[self.seeds[0]][0].evaluation.problems


def read_study(path: Path, *, quick: bool = False) -> Study:
    """Read a study file and build the settings of all its runs.

    Args:
        quick: one seed, two rounds, 40 problems; the study is then called NAME-quick.

    Raises:
        ConfigError: a value in it is wrong; names file and key.
    """
    try:
        tables = _tables(path)
        return _study(path, tables, quick)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _study(path: Path, tables: Mapping[str, Table], quick: bool) -> Study:
    head = tables["study"]
    seeds = _seeds(head)[:1] if quick else _seeds(head)
    base = _scenario(path, _text(head, "scenario"))
    base = _with("settings", base, _settings("settings", tables["settings"]))
    arms = tuple(_arm(name, table, base, seeds, quick) for name, table in _arms(tables["arms"]).items())
    baseline = _text(head, "baseline")
    names = [arm.name for arm in arms]
    if baseline not in names:
        raise ConfigError(f"study.baseline is {baseline!r}, which is not an arm. Arms are {', '.join(names)}.")
    figure = _text(head, "figure", "rounds")
    if figure not in FIGURES:
        raise ConfigError(f"study.figure is {figure!r}, but must be one of: {', '.join(FIGURES)}.")
    if not NAME.fullmatch(path.stem):
        raise ConfigError("the file's name is the study's, and must be of letters, digits, dots and hyphens.")
    _same_for_all(arms, baseline)
    return Study(
        name=f"{path.stem}-quick" if quick else path.stem,
        question=_text(head, "question"),
        scenario=_text(head, "scenario"),
        seeds=seeds,
        baseline=baseline,
        figure=figure,
        arms=arms,
        quick=quick,
    )


def _arm(name: str, table: Table, base: RunConfig, seeds: tuple[int, ...], quick: bool) -> Arm:
    where = f"arms.{name}"
    kind = table.get("kind", FEDERATED)
    if kind not in KINDS:
        raise ConfigError(f"{where}.kind is {kind!r}, but must be one of: {', '.join(KINDS)}.")
    values = _settings(where, {key: value for key, value in table.items() if key != "kind"})
    config = _with(where, base, {**values, **(QUICK if quick else {})})
    try:
        whole = {seed: runs_of(str(kind), config.with_values({"federation.seed": seed})) for seed in seeds}
    except ConfigError as error:
        raise ConfigError(f"[{where}] {error}") from error
    runs = {seed: tuple(all_at_once(run) for run in of_seed) for seed, of_seed in whole.items()}
    return Arm(name=name, kind=str(kind), runs=runs)


def _same_for_all(arms: tuple[Arm, ...], baseline: str) -> None:
    first = {arm.name: next(iter(arm.runs.values()))[0].flat() for arm in arms}
    for name, values in first.items():
        for key in SAME_FOR_ALL:
            if values[key] != first[baseline][key]:
                raise ConfigError(
                    f"[arms.{name}] {key} is {values[key]!r} and the baseline's is {first[baseline][key]!r}, but arms "
                    "are compared problem by problem. Set it in [settings], for all of them."
                )


def _tables(path: Path) -> dict[str, Table]:
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"the study cannot be read: {error.strerror}.") from error
    except (ValueError, OverflowError, RecursionError) as error:
        raise ConfigError(f"this is not TOML: {error}.") from error
    _known("", raw, ("study", "settings", "arms"))
    tables = {name: _table(name, raw.get(name, {})) for name in ("study", "settings", "arms")}
    _known("study.", tables["study"], KEYS)
    return tables


def _known(prefix: str, table: Table, keys: tuple[str, ...]) -> None:
    for key in table:
        if key not in keys:
            close = difflib.get_close_matches(key, keys, n=1)
            hint = f"Did you mean {prefix}{close[0]}?" if close else f"Known are {', '.join(keys)}."
            raise ConfigError(f"There is no {prefix}{key} in a study. {hint}")


def _arms(table: Table) -> dict[str, Table]:
    if len(table) < 2:
        raise ConfigError("[arms] has fewer than two arms, and a comparison needs two. Add [arms.NAME] sections.")
    for name in table:
        if not NAME.fullmatch(name):
            raise ConfigError(f"arms.{name!r} is no name of letters, digits, dots and hyphens.")
    return {name: _table(f"arms.{name}", value) for name, value in table.items()}


def _settings(where: str, table: Table) -> Table:
    """Return flat settings, written `"federation.rounds" = 12`, or without the quotes, which TOML nests."""
    flat: Table = {}
    for key, value in table.items():
        nested = isinstance(value, dict)
        flat |= {f"{key}.{name}": inner for name, inner in _table(key, value).items()} if nested else {key: value}
    for key in flat.keys() & DECIDED.keys():
        raise ConfigError(f"[{where}] {key} cannot be set here: {DECIDED[key]}.")
    return flat


def _with(where: str, config: RunConfig, values: Table) -> RunConfig:
    try:
        return config.with_values(values)
    except ConfigError as error:
        raise ConfigError(f"[{where}] {error}") from error


def _scenario(path: Path, name: str) -> RunConfig:
    return scenario(str(path.parent / name) if name.endswith(".toml") else name)


def _seeds(table: Table) -> tuple[int, ...]:
    value = table.get("seeds", [0])
    items = cast(list[object], value) if isinstance(value, list) else []
    seeds = tuple(item for item in items if type(item) is int)
    if not seeds or len(set(seeds)) != len(items):
        raise ConfigError(f"study.seeds is {value!r}, but must be a list of different whole numbers, as [0, 1, 2].")
    return seeds


def _text(table: Table, key: str, default: str = "") -> str:
    value = table.get(key, default)
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"study.{key} is {value!r}, but must be a text. Write it in the [study] section.")
    return value


def _table(where: str, value: Any) -> Table:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} is {value!r}, but must be a section: [{where}].")
    return cast(Table, value)
