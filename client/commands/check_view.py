"""What `fedgrpo client check` found, in a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from ...common.cli.options import plain, plain_lines
from ...common.cli.tables import WholeTable
from .check import Checked
from .status_view import fields_table


def show(found: Checked) -> None:
    """Print what was found."""
    console = Console(highlight=False)
    steps = Table("tried", "found", box=None, pad_edge=False)
    for name, what in found.steps:
        steps.add_row(name, plain(what))
    console.print(WholeTable(steps))
    for sample in found.samples:
        console.rule("a prompt of yours, and what the model makes of it now", style="dim")
        console.print(plain_lines(sample.question), style="dim")
        console.print(plain_lines(sample.completion.strip() or "(nothing)"))
        paid = (f"{name} {'–' if r is None else format(r, 'g')}" for name, r in sample.rewards.items())
        console.print(plain("  ".join(paid)))
    for kind, fields in found.leaving:
        console.rule(f"would leave in answer to {kind}", style="dim")
        console.print(WholeTable(fields_table(fields)))
    for warning in found.warnings:
        console.print("[yellow]Warning:[/yellow]", plain(warning))
    if found.problems:
        for problem in found.problems:
            console.print("[red]Not ready:[/red]", *map(plain, problem.splitlines()), sep="\n")
    else:
        console.print(f"Ready. Nothing was sent. Join: fedgrpo client up {found.organisation.file}")
