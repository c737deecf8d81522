"""`fedgrpo server status` on a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from ...common.cli.options import plain
from ...common.cli.tables import WholeTable
from ..run.status import RunStatus


def print_status(runs: list[RunStatus], nodes: list[dict[str, Any]], trouble: str) -> None:
    """Two tables: runs and nodes."""
    console = Console(highlight=False)
    console.print(WholeTable(_runs(runs)) if runs else "No run yet: fedgrpo server submit FOLDER SCENARIO")
    if trouble:
        console.print("Nodes are unknown:", plain(trouble))
    else:
        console.print(
            WholeTable(_nodes(nodes)) if nodes else "No node is registered yet: fedgrpo keys register FOLDER NAME.pub"
        )


def _runs(runs: list[RunStatus]) -> Table:
    table = Table("run", "round", "state", "last event", "clients (last update)", box=None, pad_edge=False)
    for run in runs:
        clients = ", ".join(f"{name} {ago(seconds)}" for name, seconds in sorted(run.clients.items()))
        state = f"{run.state}: {run.reason}" if run.reason else run.state
        words = run.name, f"{run.round}/{run.rounds or '?'}", state, ago(run.last_event_s), clients or "none yet"
        table.add_row(*map(plain, words))
    return table


def _nodes(nodes: list[dict[str, Any]]) -> Table:
    table = Table("node", "name", "state", "last change", box=None, pad_edge=False)
    for node in nodes:
        changed = next((str(node[key]) for key in ("online-at", "offline-at", "created-at") if node.get(key)), "")
        table.add_row(*(plain(node.get(key, "")) for key in ("node-id", "name", "state")), changed)
    return table


def ago(seconds: float) -> str:
    """Return a time span in one unit.

    >>> ago(5), ago(200), ago(10_000), ago(200_000)
    ('5 s ago', '3 min ago', '2.8 h ago', '2.3 d ago')
    """
    for unit, length in (("d", 86400), ("h", 3600)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit} ago"
    return f"{seconds / 60:.0f} min ago" if seconds >= 120 else f"{seconds:.0f} s ago"
