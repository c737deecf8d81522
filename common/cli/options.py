"""What several commands share: output formats, and how a command talks while it works."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import sys
import time
from enum import StrEnum
from typing import Annotated

import typer
from rich.text import Text


class Format(StrEnum):
    """How a command answers."""

    text = "text"
    json = "json"


FormatOption = Annotated[Format, typer.Option("--format", help="json: stdout holds JSON only, the result last.")]


def say(line: str) -> None:
    """Print a line of progress, with the time, to stderr."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def plain(text: object) -> Text:
    """Return a text without markup and control characters, since some of it comes from other machines."""
    return Text("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text)))
