"""The commands `fedgrpo partition` and `fedgrpo report`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..common.cli.options import Format, FormatOption
from ..common.errors import ConfigError
from ..server.run.completion import complete_run
from .commands import (
    AlphaOption,
    ClientsOption,
    DataOption,
    PartitionOption,
    ScenarioArgument,
    SeedOption,
    SetOption,
    absolute,
    with_options,
)

PICTURES = (".png", ".svg", ".pdf", ".jpg")


def partition(
    scenario: ScenarioArgument = "gsm8k",
    clients: ClientsOption = None,
    data: DataOption = None,
    partition: PartitionOption = None,
    alpha: AlphaOption = None,
    label: Annotated[str | None, typer.Option(help="Column that dirichlet partitions by.")] = None,
    seed: SeedOption = None,
    settings: SetOption = None,
    plot: Annotated[Path, typer.Option(help="Picture to write.")] = Path("partition.png"),
    output: FormatOption = Format.text,
) -> None:
    """Preview how a scenario's problems are partitioned across clients.

    [bold]Examples[/bold]

      fedgrpo partition builtin
      fedgrpo partition gsm8k --data gsm8k/ --partition difficulty --clients 8
      fedgrpo partition gsm8k --partition dirichlet --label steps --alpha 0.1
    """
    from .engine import runner
    from .report import partition_view

    given = {
        "simulation.clients": clients,
        "simulation.data": data and absolute(data),
        "simulation.partition": partition,
        "simulation.partition-alpha": alpha,
        "simulation.partition-label": label,
        "federation.seed": seed,
    }
    if plot.suffix.lower() not in PICTURES:
        raise ConfigError(
            f"--plot is {plot}, but a picture is written as one of {', '.join(PICTURES)}. Name such a file."
        )
    config = with_options(runner.scenario(scenario), given, settings or [])
    split = partition_view.Split.of(config)
    split.plot(plot)
    if output is Format.json:
        print(json.dumps({**split.as_json(), "plot": str(plot)}))
    else:
        split.print_table(plot)


def report(
    folder: Annotated[Path, typer.Argument(help="A run folder.", autocompletion=complete_run)],
    figures: Annotated[
        Path | None, typer.Option(help="Folder to write every figure to, as SVG and PNG for a paper.")
    ] = None,
    output: FormatOption = Format.text,
) -> None:
    """Write report.html of a run: one file with curves, classes, bytes and samples that opens in any browser.

    [bold]Examples[/bold]

      fedgrpo report runs/builtin-20260101-120000
      fedgrpo report runs/builtin-20260101-120000 --figures figures/
    """
    from ..server.run.reader import Run
    from .report.figures import write_figures
    from .report.html import write_report

    run = Run.read(folder)
    path = write_report(run)
    written = [str(each) for each in write_figures(run, figures)] if figures else []
    if output is Format.json:
        print(json.dumps({"report": str(path), "figures": written}))
    else:
        print(f"Wrote {path}" + (f"\nWrote {len(written)} figures to {figures}" if written else ""))
