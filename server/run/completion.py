"""Shell completion of run folders."""

from __future__ import annotations

import os
from pathlib import Path

from ...common.cli.completion import beginning_with
from .layout import RunFolder


def complete_run(incomplete: str) -> list[str]:
    """Return the run folders that begin with what is typed; where there are none, the folders to look further in.

    Without a beginning these are the runs in `runs/`, the newest first.
    """
    if not incomplete:
        folders = [path for path in Path("runs").glob("*") if RunFolder(path).settings.is_file()]
        return [str(path) for path in sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True)]
    found = [(text, path) for text, path in beginning_with(incomplete) if path.is_dir()]
    return [text for text, path in found if RunFolder(path).settings.is_file()] or [
        f"{text}{os.sep}" for text, _ in found
    ]
