"""Shell completion of paths and run folders. What completes a name stands beside the command that takes it."""

from __future__ import annotations

import os
from pathlib import Path

RUN_FILE = "config.resolved.toml"
"""Every run folder has it from the first moment on."""


def complete_path(incomplete: str, suffix: str) -> list[str]:
    """Return the files with an ending, and the folders to look further in, that begin with what is typed."""
    found = _beginning_with(incomplete)
    folders = [f"{text}{os.sep}" for text, path in found if path.is_dir()]
    return [*folders, *(text for text, path in found if path.is_file() and path.name.endswith(suffix))]


def complete_run(incomplete: str) -> list[str]:
    """Return the run folders that begin with what is typed; where there are none, the folders to look further in.

    Without a beginning these are the runs in `runs/`, the newest first.
    """
    if not incomplete:
        folders = [path for path in Path("runs").glob("*") if (path / RUN_FILE).is_file()]
        return [str(path) for path in sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True)]
    found = [(text, path) for text, path in _beginning_with(incomplete) if path.is_dir()]
    return [text for text, path in found if (path / RUN_FILE).is_file()] or [f"{text}{os.sep}" for text, _ in found]


def _beginning_with(incomplete: str) -> list[tuple[str, Path]]:
    """Return (what would be typed, its path) of all that begins with `incomplete`, hidden files left out."""
    folder, separator, name = incomplete.rpartition(os.sep)
    place = Path(folder + separator or ".")
    if not place.is_dir():
        return []
    paths = sorted(path for path in place.iterdir() if path.name.startswith(name) and not path.name.startswith("."))
    return [(f"{folder}{separator}{path.name}", path) for path in paths]
