"""What a person reads of an audit."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...common.analysis.roc import Interval
from ...common.cli.options import plain
from ...common.cli.tables import WholeTable
from . import words
from .findings import LEAKS, NOT_FOUND, Finding
from .session import Audited

COLOURS = {LEAKS: "bold red", NOT_FOUND: "green"}


def show(audited: Audited, files: list[str]) -> None:
    """Print the protocol, the table of signals, the verdict, and what to do."""
    console = Console(highlight=False)
    console.print(WholeTable(_protocol(audited)))
    console.print(WholeTable(_signals(audited)))
    found = audited.found
    console.print(Text(words.verdict(found), COLOURS.get(found.verdict, "yellow")))
    if said := words.epsilon(found, audited.ledger):
        console.print(plain(said))
    for note in audited.subjects.notes:
        console.print(Text("Note: ", "dim").append_text(plain(note)))
    if audited.advice:
        console.print("What to do:" if found.verdict == LEAKS else "To see more:", style="bold")
        for line in audited.advice:
            console.print(Text(f"  - {line}"))
    console.print(plain("written: " + ", ".join(files)), style="dim")


def _protocol(audited: Audited) -> Table:
    subjects, how = audited.subjects, audited.how
    read = f", each {subjects.reads:.1f} times on average" if subjects.reads else ""
    coins = f"{len(subjects.coins)} {subjects.coins_are}" if subjects.coins else "none, so no bound on epsilon"
    rows = {
        "audited": audited.target.name,
        "trained on": f"{len(subjects.members)} prompts{read}",
        "not trained on": f"{len(subjects.others)} prompts: {subjects.others_are}",
        "coins": coins,
        "completions": f"{how.samples} of each prompt by each model, at temperature {how.temperature:g}, at most "
        f"{how.max_tokens} tokens",
    }
    table = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        table.add_row(Text(name, style="dim"), plain(value))
    return table


def _signals(audited: Audited) -> Table:
    table = Table(title="does a signal tell prompts that were trained on?", title_justify="left")
    for heading in ("signal", "trained on", "others", "AUC", "95 %", "TPR at 1 % FPR", "95 %", "tells"):
        table.add_column(heading, justify="left" if heading in ("signal", "tells") else "right")
    for each in audited.found.signals:
        table.add_row(*_cells(each, "yes" if each.tells else "no"))
    table.add_section()
    for each in audited.found.controls:
        table.add_row(*_cells(each, "differs" if each.tells else "alike"))
    table.caption = "tells: also if the error of 5 % is divided among all signals; guessing has AUC 0.5 and TPR 1 %"
    return table


def _cells(each: Finding, tells: str) -> list[str]:
    return [
        each.signal,
        f"{each.members:.3f}",
        f"{each.others:.3f}",
        f"{each.auc.value:.3f}",
        _ends(each.auc, "{:.3f}"),
        f"{each.tpr.value:.1%}",
        _ends(each.tpr, "{:.1%}"),
        tells,
    ]


def _ends(interval: Interval, form: str) -> str:
    return f"{form.format(interval.low)} to {form.format(interval.high)}"
