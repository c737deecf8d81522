"""Shell completion of paths. What completes a name is next to the command that takes it."""

from __future__ import annotations

import os
from pathlib import Path


def complete_path(incomplete: str, suffix: str) -> list[str]:
    """Return the files with an ending, and the folders to look further in, that begin with what is typed."""
    found = beginning_with(incomplete)
    folders = [f"{text}{os.sep}" for text, path in found if path.is_dir()]
    return [*folders, *(text for text, path in found if path.is_file() and path.name.endswith(suffix))]


def beginning_with(incomplete: str) -> list[tuple[str, Path]]:
    """Return (what would be typed, its path) of all that begins with `incomplete`, hidden files left out."""
    folder, separator, name = incomplete.rpartition(os.sep)
    place = Path(folder + separator or ".")
    if not place.is_dir():
        return []
    paths = sorted(path for path in place.iterdir() if path.name.startswith(name) and not path.name.startswith("."))
    return [(f"{folder}{separator}{path.name}", path) for path in paths]
