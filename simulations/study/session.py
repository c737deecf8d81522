"""A study, from its file to its table: check everything, run what is left, tabulate what is finished."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from ...common.errors import ConfigError
from ...common.storage.atomic import write_atomic
from ...server.run.lock import locked
from ..engine import runner
from ..engine.start import started
from .comparison import compared
from .figure import draw
from .outcomes import gather
from .play import play
from .study_file import Study, read_study
from .study_runs import FINISHED, StudyRun, study_runs_of
from .table import markdown, print_result
from .view import watching


@dataclass(frozen=True, slots=True)
class Done:
    """Result of a study."""

    folder: Path
    result: dict[str, Any]
    failed: dict[str, str]
    """Run -> the end of its log."""


def study(file: Path, out: Path, *, jobs: int | None, quick: bool, only_tabulate: bool) -> Done:
    """Run or resume a study, and write its result.

    Args:
        out: folder of study folders.
        jobs: runs in parallel; None uses one per core.

    Raises:
        ConfigError: the file is wrong, a run has other settings, or there is nothing to tabulate.
        Interrupted: the study was asked to stop.
    """
    plan = read_study(file, quick=quick)
    root = out / plan.name
    study_runs = study_runs_of(plan, root)
    states = {study_run: study_run.state() for study_run in study_runs}
    failed: dict[str, str] = {}
    if not only_tabulate:
        failed = _played(states, jobs or runner.default_workers(), root)
        states = {study_run: study_run.state() for study_run in study_runs}
    command = f"fedgrpo study {file.name if file.is_absolute() else file}"
    return Done(root, _tabulated(plan, states, failed, root, command=command), failed)


def show(done: Done) -> None:
    """Print the table and the paths of the files."""
    print_result(done.result, Console())
    print(f"\nStudy folder  {done.folder}\nTable         {done.folder / 'table.md'}")
    print(f"Figure        {done.folder / 'figure.svg'}")


def _played(states: Mapping[StudyRun, str], jobs: int, root: Path) -> dict[str, str]:
    """Execute the runs that are not finished, and return those that failed."""
    left = [study_run for study_run, state in states.items() if state != FINISHED]
    _check(left)
    for study_run in states:
        if study_run not in left:
            runner.same_inputs(study_run.own_config())
    with locked(root), watching(states) as watch:
        for start in {study_run.config.model.name: study_run.of_study for study_run in left}.values():
            started(start)
        failed = play(left, jobs, watch).failed
    return {study_run.name: f"{said}\nAll that it said: {study_run.log}" for study_run, said in failed.items()}


def _check(study_runs: Sequence[StudyRun]) -> None:
    """Check everything that would fail in a run, before any starts: data, partition and rewards of every arm."""
    first = {(study_run.arm, study_run.seed): study_run for study_run in reversed(study_runs)}
    for study_run in reversed(first.values()):
        try:
            runner.check(study_run.of_study)
        except ConfigError as error:
            raise ConfigError(f"{study_run.name}: {error}") from error


def _tabulated(
    plan: Study, states: Mapping[StudyRun, str], failed: Mapping[str, str], root: Path, *, command: str
) -> dict[str, Any]:
    """Write table, figure and result, and return the result."""
    found, reasons = gather(plan, states)
    if not found:
        told = "".join(f"\n{name} failed, {said}" for name, said in failed.items())
        raise ConfigError(f"{root} holds no arm with a finished seed, so there is nothing to tabulate.{told}")
    result = compared(plan, found, {**reasons, **{name: f"failed, {said}" for name, said in failed.items()}})
    result["command"] = command
    write_atomic(root / "result.json", json.dumps(result, indent=1).encode() + b"\n")
    write_atomic(root / "table.md", markdown(result).encode())
    draw(result, root / "figure.svg", over_bytes=plan.figure == "bytes")
    return result
