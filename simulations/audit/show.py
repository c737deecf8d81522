"""The checks of a log, in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from ...common.cli.options import plain
from ...common.cli.tables import WholeTable
from .verify import Verified

WORDS = {"ok": "[green]right[/green]", "bad": "[red]WRONG[/red]", "unknown": "[dim]not known[/dim]"}


def show_checks(found: Verified) -> None:
    """Print a line for each check, and what they come to."""
    console = Console(highlight=False)
    table = Table("checked", "", "found", box=None, pad_edge=False)
    for check in found.checks:
        table.add_row(check.name, WORDS[check.status], plain(check.text))
    console.print(WholeTable(table))
    if found.sound:
        console.print(f"Nothing is wrong in the log of {found.evidence.run}.")
    else:
        console.print(
            "[red]Something is wrong.[/red] Keep the log and your own folder as they are, and ask the operator."
        )
