"""Append-only JSON Lines: every line is on disk before the call returns, and an incomplete line never hides others."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

from ..errors import RunError
from .atomic import PUBLIC

Entry = dict[str, object]


def append_line(path: Path, line: Mapping[str, object], mode: int = PUBLIC) -> None:
    """Append one line, as `append_lines` does."""
    append_lines(path, [line], mode)


def append_lines(path: Path, lines: Iterable[Mapping[str, object]], mode: int = PUBLIC) -> None:
    """Append JSON lines and flush them to disk. An incomplete line of an earlier crash is removed first.

    Args:
        mode: of a new file, PUBLIC or PRIVATE.

    Raises:
        OSError: the disk is full; the earlier content of the file is kept.
    """
    append_whole(path, b"".join(as_line(line) for line in lines), mode)


def append_whole(path: Path, data: bytes, mode: int = PUBLIC) -> None:
    """Append whole lines as `append_lines` does, bytes as they are."""
    with open(path, "ab+", buffering=0, opener=lambda name, flags: os.open(name, flags, mode)) as file:
        end = file.seek(0, os.SEEK_END)
        if end and (file.seek(end - 1), file.read(1))[1] != b"\n":
            file.seek(0)
            end = file.read().rfind(b"\n") + 1
            file.truncate(end)
        try:
            while data:  # an unbuffered write may be partial; only its return value shows it
                data = data[file.write(data) :]
            os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(path, end)
            raise


def read_lines(path: Path) -> list[Entry]:
    """Return all complete JSON lines of a file; an incomplete last line, which a crash can leave, is ignored.

    Raises:
        RunError: another line is not a JSON object. fedgrpo never writes such a line.
    """
    return [entry for _, entry in numbered_lines(path)]


def numbered_lines(path: Path) -> list[tuple[int, Entry]]:
    """Read as `read_lines` does, each line with its number in the file, from 1."""
    return numbered_entries(path, path.read_bytes()) if path.exists() else []


def numbered_entries(path: Path, data: bytes, first: int = 1) -> list[tuple[int, Entry]]:
    """Return the JSON objects of a file's lines, each with its number; an incomplete last line is ignored.

    Args:
        first: number of the first line of `data`.

    Raises:
        RunError: a line is not a JSON object; names file and line.
    """
    *whole, _ = data.split(b"\n")
    return [(number, _entry(path, number, line)) for number, line in enumerate(whole, start=first) if line]


def _entry(path: Path, number: int, line: bytes) -> Entry:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path}, line {number} is damaged: it is not JSON.") from error
    if not isinstance(entry, dict):
        raise RunError(f"{path}, line {number} is damaged: it is not a JSON object.")
    return cast(Entry, entry)


def as_line(line: Mapping[str, object]) -> bytes:
    """Return a JSON object as one line."""
    return json.dumps(line, separators=(",", ":")).encode() + b"\n"
