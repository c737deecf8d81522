"""Where messages really go: the address of the SuperNode that this ClientApp was started by.

The organisation's file names an address too, but Flower's SuperNode does not read that file: one that was started by
hand may be connected elsewhere. Flower does not tell a ClientApp its server, so the processes above it are looked at.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

SUPERNODE = ("flower-supernode", "flwr-supernode")
OURS = ("client", "supernode")
"""Words of the command that runs one in our own process."""
OPTION = "--superlink"
PROC = Path("/proc")
MOST_ANCESTORS = 32


@dataclass(frozen=True, slots=True)
class Destination:
    """An address, and how it is known."""

    address: str
    source: str
    """`supernode`: from the command line of the running SuperNode. `configured`: from the organisation's file, which is
    where messages should go; whether they do is not known."""


def destination(configured: str) -> Destination:
    """Return where this process's messages go.

    Args:
        configured: flower.superlink of the organisation's file.
    """
    for words in _ancestors():
        if any(Path(word).name in SUPERNODE for word in words[:3]) or OURS in pairwise(words[:6]):
            address = _option(words)
            return Destination(address, "supernode") if address else Destination(configured or "unknown", "configured")
    return Destination(configured or "unknown", "configured")


def _ancestors() -> list[list[str]]:
    """Return the command lines of the processes above this one, nearest first; none where /proc does not show them."""
    found: list[list[str]] = []
    process = os.getpid()
    try:
        while process > 1 and len(found) < MOST_ANCESTORS:
            status = (PROC / str(process) / "stat").read_text(errors="replace")
            process = int(status.rpartition(")")[2].split()[1])
            line = (PROC / str(process) / "cmdline").read_bytes().decode(errors="replace")
            found.append(line.split("\0"))
    except (OSError, ValueError, IndexError):
        pass
    return found


def _option(words: list[str]) -> str:
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == OPTION:
            return following
        if word.startswith(f"{OPTION}="):
            return word.partition("=")[2]
    return ""
