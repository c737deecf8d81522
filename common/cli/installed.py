"""Commands that installed parts register as entry points, so that no part has to import another."""

from __future__ import annotations

from importlib.metadata import entry_points

import typer


def add_installed(cli: typer.Typer, group: str) -> None:
    """Add the commands of an entry point group to a typer application, in alphabetical order.

    An entry is a function, or a `typer.Typer` with commands of its own. Its module is imported here: it must be light.
    """
    for entry in sorted(entry_points(group=group), key=lambda e: e.name):
        command = entry.load()
        if isinstance(command, typer.Typer):
            cli.add_typer(command, name=entry.name)
        else:
            cli.command(entry.name)(command)
