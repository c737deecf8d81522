"""The commands `fedgrpo study` and `fedgrpo board`."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from ...common.cli.options import Format, FormatOption


def study(
    file: Annotated[Path, typer.Argument(help="The study file, a .toml.")],
    out: Annotated[Path, typer.Option(help="Folder of study folders.")] = Path("studies-out"),
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs executed in parallel; default: one per core.")] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Smoke run in its own folder: one seed, 2 rounds, 40 problems, no comparison."),
    ] = False,
    table: Annotated[bool, typer.Option("--table", help="Run nothing; tabulate the finished runs.")] = False,
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
      seeds = \\[0, 1, 2, 3, 4]
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
    from . import session

    done = session.study(file, out.expanduser().resolve(), jobs=jobs, quick=quick, only_tabulate=table)
    if output is Format.text:
        session.show(done)
    for name, said in done.failed.items():
        print(f"\n{name} failed, {said}", file=sys.stderr)
    if output is Format.json:
        print(json.dumps(done.result))
    if done.failed:
        raise typer.Exit(1)


def board(
    results: Annotated[list[Path], typer.Argument(help="result.json files, or folders that hold some.")],
    out: Annotated[Path | None, typer.Option(help="Page to write; printed if not given.")] = None,
) -> None:
    """Make one page of the result files of studies: a line per arm, with the command that makes it again.

    [bold]Examples[/bold]

      fedgrpo board docs/studies --out docs/board.md
      fedgrpo board studies-out/mine/result.json          one study, on stdout
    """
    from ...common.storage.atomic import write_atomic
    from .board import board as page

    text = page(results)
    if out is None:
        print(text, end="")
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(out, text.encode())
        print(f"Board         {out}")
