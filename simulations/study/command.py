"""The command `fedgrpo study`."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ...common.cli_options import Format, FormatOption
from ...common.errors import ConfigError
from ...common.files import write_atomic
from ...server.store import Store
from .. import runner
from .cells import FINISHED, Cell, cells_of, states_of
from .comparison import compared
from .figure import draw
from .file import Study, read_study
from .outcomes import gather
from .play import play
from .table import markdown, print_result
from .view import watching


def study(
    file: Annotated[Path, typer.Argument(help="The study file, a .toml.")],
    out: Annotated[Path, typer.Option(help="Folder of study folders.")] = Path("studies-out"),
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs played at once; default: one per core.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="One seed, 2 rounds, 40 problems, in a folder of its own: does it work?")
    ] = False,
    table: Annotated[bool, typer.Option("--table", help="Play nothing: tabulate what is there.")] = False,
    output: FormatOption = Format.text,
) -> None:
    """Compare ways to train over several seeds, on the same held-out problems, with paired intervals.

    Each arm and seed is an ordinary run. A study that was interrupted goes on with the same command: what is finished
    is not played again. table.md, figure.svg and result.json in OUT/STUDY hold what was found.

    [bold]Examples[/bold]

      fedgrpo study mine.toml --quick     does the file work? A minute or two
      fedgrpo study mine.toml --jobs 2
      fedgrpo study mine.toml --table     the table so far

    [bold]A study file[/bold]

      \\[study]
      question = "Is federated training as good as central training?"
      scenario = "builtin"            # a shipped name, or a path beside this file
      seeds = \\[0, 1, 2]
      baseline = "central"            # the others are compared with this arm
      figure = "bytes"                # optional: accuracy over bytes as well
      \\[settings]
      "federation.rounds" = 12        # any setting, for all arms
      \\[arms.federated]
      \\[arms.naive]
      "aggregation.method" = "naive"  # any setting, for this arm
      \\[arms.central]
      kind = "central"                # or central-batch, local, local-long
    """
    plan = read_study(file, quick=quick)
    root = out.expanduser().resolve() / plan.name
    cells = cells_of(plan, root)
    states = states_of(cells)
    failed: Mapping[Cell, str] = {}
    if not table:
        failed = _played(states, jobs or runner.default_workers(), root)
        states = states_of(cells)
    result = _tabulated(plan, states, failed, root)
    if output is Format.text:
        print_result(result, Console())
        print(f"\nStudy folder  {root}\nTable         {root / 'table.md'}\nFigure        {root / 'figure.svg'}")
    for cell, tail in failed.items():
        print(f"\n{cell.name} failed, {tail}\nAll that it said: {cell.log}", file=sys.stderr)
    if output is Format.json:
        print(json.dumps(result))
    if failed:
        raise typer.Exit(1)


def _played(states: Mapping[Cell, str], jobs: int, root: Path) -> Mapping[Cell, str]:
    """Play what is not finished, and return what failed."""
    left = [cell for cell, state in states.items() if state != FINISHED]
    _check(left)
    with Store(root).locked(), watching(states) as watch:
        return play(left, jobs, watch).failed


def _check(cells: Sequence[Cell]) -> None:
    """Find what would fail in a run before any begins: data, division and rewards of every arm and seed."""
    first = {(cell.arm, cell.seed): cell for cell in reversed(cells)}
    for cell in reversed(first.values()):
        try:
            runner.check(cell.config)
        except ConfigError as error:
            raise ConfigError(f"{cell.name}: {error}") from error


def _tabulated(plan: Study, states: Mapping[Cell, str], failed: Mapping[Cell, str], root: Path) -> dict[str, Any]:
    """Write table, figure and result; return the result."""
    found, reasons = gather(plan, states)
    if not found:
        told = "".join(f"\n{cell.name} failed, {tail}" for cell, tail in failed.items())
        raise ConfigError(f"{root} holds no arm with a finished seed, so there is nothing to tabulate.{told}")
    reasons |= {cell.name: f"failed, {tail}" for cell, tail in failed.items()}
    result = compared(plan, found, reasons)
    write_atomic(root / "result.json", json.dumps(result, indent=1).encode() + b"\n")
    write_atomic(root / "table.md", markdown(result).encode())
    draw(result, root / "figure.svg", over_bytes=plan.figure == "bytes")
    return result
