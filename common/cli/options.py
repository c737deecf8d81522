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
    """A line of progress: time and text, on stderr."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def plain(text: object) -> Text:
    """A text that says what it says: no markup, no control characters. Some of it comes from other parties."""
    return Text("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text)))
