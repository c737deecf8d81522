"""What several commands share: output formats, and how a command talks while it works."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import sys
import time
from enum import StrEnum
from typing import Annotated

import typer
from rich.text import Text

from ..foreign import printable


class Format(StrEnum):
    """How a command answers."""

    text = "text"
    json = "json"


FormatOption = Annotated[Format, typer.Option("--format", help="json: stdout holds JSON only, the result last.")]


def say(line: str) -> None:
    """Print a line of progress, with the time, to stderr."""
    print(f"{time.strftime('%H:%M:%S')} {printable(line)}", file=sys.stderr, flush=True)


def plain(text: object) -> Text:
    """Return a text without markup and control characters, since some of it comes from other machines."""
    return Text(printable(str(text)))


def plain_lines(text: str) -> Text:
    """Return a text of several lines, such as a completion, each of them `plain`."""
    return Text("\n").join(plain(line) for line in text.split("\n"))
