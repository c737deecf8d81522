"""The help of every command, printed as its author wrote it.

Two libraries stand between a docstring and the terminal, and each loses a part of it. typer up to 0.25 hands an
argument's help to nobody, and click from 8.5 on sets it to nothing (flwr keeps typer below 0.21). Rich reads
`[train]` as a style and prints nothing for it. Both are put right on the finished commands, once, for all of them.
"""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any, get_type_hints

import typer
from typer.models import ArgumentInfo

STYLE_TAG = re.compile(r"(?<!\\)(\[/?bold\])")
"""The only markup that our help uses: headings. Every other bracket is text."""
INDENTED = re.compile(r"^\s", re.MULTILINE)
OPEN_BRACKET = re.compile(r"\\*\[")


def with_whole_help(cli: typer.Typer) -> Any:
    """Return the click command of a typer application, with the help of all its arguments and all its brackets."""
    command = typer.main.get_command(cli)
    for each in _with_subcommands(command):
        _restore_argument_help(each)
        _print_as_written(each)
    return command


def literal(text: str) -> str:
    r"""Return `text` as Rich markup that prints it: a bracket is text, but for the tags of bold.

    >>> literal("[bold]Needs[/bold] the [train] extra.")
    '[bold]Needs[/bold] the \\[train] extra.'
    """
    parts = STYLE_TAG.split(text)
    return "".join(part if STYLE_TAG.fullmatch(part) else OPEN_BRACKET.sub(r"\\[", part) for part in parts)


def reflowed(text: str) -> str:
    r"""Return a docstring with each paragraph of prose on one line, which the terminal then breaks where it is full.

    Lines that are indented stay: they are examples.

    >>> reflowed("Compare ways.\n\nEach arm is\na run.\n\n  fedgrpo study a.toml\n  fedgrpo study b.toml")
    'Compare ways.\n\nEach arm is a run.\n\n  fedgrpo study a.toml\n  fedgrpo study b.toml'
    """
    paragraphs = text.split("\n\n")
    return "\n\n".join(
        part if re.search(r"^\s", part, re.MULTILINE) else part.replace("\n", " ") for part in paragraphs
    )


def _with_subcommands(command: Any) -> Iterator[Any]:
    yield command
    for child in getattr(command, "commands", {}).values():
        yield from _with_subcommands(child)


def _restore_argument_help(command: Any) -> None:
    """Give each positional argument the help that stands in the command's annotations."""
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    if not arguments:
        return
    hints = get_type_hints(inspect.unwrap(command.callback), include_extras=True)
    for argument in arguments:
        described = [
            info for info in getattr(hints[argument.name], "__metadata__", ()) if isinstance(info, ArgumentInfo)
        ]
        if described and not argument.help:
            argument.help = described[0].help


def _print_as_written(command: Any) -> None:
    for part in (command, *command.params):
        for name in ("help", "short_help", "epilog"):
            text = getattr(part, name, None)
            if isinstance(text, str):
                setattr(part, name, literal(reflowed(text)))
