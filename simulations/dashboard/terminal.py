"""A run in the terminal, from its folder alone: `fedgrpo watch`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ...common.cli.tables import WholeTable
from ..report.live_view import sparkline
from .run_view import RunView

LOOK_S = 1.0
ENDED = ("finished", "stopped", "interrupted")
EVENTS = 5
TROUBLE = ("VOID", "WARNED", "WITHHELD")


def watch_run(folder: Path, console: Console | None = None) -> None:
    """Show a run until it has ended: a picture on a terminal, a line for each event elsewhere.

    Raises:
        ConfigError: the folder holds no run.
        RunError: a file is damaged.
    """
    console = console or Console()
    if not console.is_terminal:
        for event in follow_events(folder):
            console.print(Text(_line(event)))
        return
    view = RunView(folder, folder.name)
    view.update()
    with Live(_picture(view.overview()), console=console, refresh_per_second=2) as live:
        while view.state() not in ENDED:
            time.sleep(LOOK_S)
            view.update()
            live.update(_picture(view.overview()))


def follow_events(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the events of a run, those so far first, until it has ended: `time` (seconds since 1970), `event`, `text`.

    Raises:
        ConfigError: the folder holds no run.
        RunError: a file is damaged.
    """
    view, told = RunView(folder, folder.name), 0
    view.update()
    while True:
        state = view.state()
        view.update()
        yield from view.events()[told:]
        told = len(view.events())
        if state in ENDED:
            return
        time.sleep(LOOK_S)


def _picture(run: dict[str, Any]) -> Group:
    bar = Table.grid(padding=(0, 1))
    up, down = (sum(x or 0 for x in run["of_round"][f"round/bytes-{way}"]) / 1e6 for way in ("up", "down"))
    seconds = sum(x or 0 for x in run["of_round"]["round/seconds"])
    figures = f"{seconds:.0f} s in rounds   ↑ {up:.1f} MB   ↓ {down:.1f} MB"
    bar.add_row(
        f"round {run['round']}/{run['rounds']}",
        ProgressBar(total=run["rounds"], completed=run["round"], width=40),
        figures,
    )
    heading = Text.assemble((run["name"], "bold"), f"  {run['state']}", (f"  {run['model']}, {run['method']}", "dim"))
    events = [
        Text(_line(event), style="yellow" if event["event"] in ("VOID", "WARNED") else "dim") for event in run["events"]
    ]
    return Group(heading, bar, WholeTable(_clients(run)), *_accuracies(run), *events[-EVENTS:])


def _clients(run: dict[str, Any]) -> Table:
    table = Table(box=None, header_style="dim")
    for name in ("client", "reward", "groups with signal", "weight", "refused", "doing"):
        table.add_column(name)
    for client in run["people"]:
        silent = client["silent"]
        table.add_row(
            client["name"],
            "" if client["reward"] is None else f"{client['reward']:.2f}",
            "" if silent is None else f"{1 - silent:.0%}",
            "" if client["share"] is None else f"{client['share']:.0%}",
            str(client["refused"] or ""),
            client["doing"],
        )
    return table


def _accuracies(run: dict[str, Any]) -> list[Text]:
    shown = []
    for decoding, points in run["accuracy"].items():
        values = [point["strict"] for point in points]
        if values:
            line = f"accuracy, {decoding:<8} {sparkline(values, 0.0, 1.0)}  {values[0]:.1%} → {values[-1]:.1%}"
            shown.append(Text(line, "bold"))
    return shown or [Text("held-out accuracy: not measured yet", "dim")]


def _line(event: dict[str, Any]) -> str:
    return f"{datetime.fromtimestamp(event['time']):%H:%M:%S}  {event['text']}"
