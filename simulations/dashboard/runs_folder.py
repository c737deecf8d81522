"""The runs in a folder: a folder of runs, an operator's folder, a study's, or one run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...common.errors import ConfigError, FedGRPOError
from ...common.foreign import printable
from ...server.run.layout import RunFolder
from .run_view import RunView

DEPTH = 4
"""How deep runs are looked for: a study's are in `STUDY/runs/ARM/seed-0`."""
MOST_RUNS = 2000


class RunsFolder:
    """Every run under a folder, by its path there. Runs that begin later are found too."""

    def __init__(self, folder: Path) -> None:
        """Look at a folder.

        Raises:
            ConfigError: it does not exist.
        """
        if not folder.is_dir():
            raise ConfigError(f"{folder} is not a folder. Give the one that runs are written to (--out of simulate).")
        self.folder = folder.resolve()
        self._views: dict[str, RunView] = {}
        self._failed: dict[str, tuple[object, FedGRPOError]] = {}
        """Why a run cannot be read, and of which state of its files that was found."""

    def names(self) -> list[str]:
        """Return the names of all runs: their paths under the folder."""
        found = sorted(_runs_under(self.folder, DEPTH))[:MOST_RUNS]
        return [self.folder.name if path == self.folder else path.relative_to(self.folder).as_posix() for path in found]

    def view(self, name: str) -> RunView:
        """Return a run, read up to now.

        Raises:
            KeyError: the folder has no such run.
            ConfigError, RunError: it cannot be read.
        """
        view = self._views.get(name)
        if view is None:
            if name not in self.names():
                raise KeyError(name)
            path = self.folder if name == self.folder.name and RunFolder(self.folder).begun else self.folder / name
            state = _state_of_files(path)
            failed, error = self._failed.get(name, (None, None))
            if error is not None and failed == state:
                raise error
            view = self._views[name] = RunView(path, name)
        try:
            view.update()
        except FedGRPOError as error:
            del self._views[name]
            self._failed[name] = _state_of_files(view.folder), error
            raise
        return view

    def summaries(self) -> list[dict[str, Any]]:
        """Return a line of each run; one that cannot be read has an `error` instead of figures."""
        return [self._summary(name) for name in self.names()]

    def _summary(self, name: str) -> dict[str, Any]:
        try:
            return self.view(name).summary()
        except (FedGRPOError, OSError) as error:
            return {"name": name, "state": "damaged", "error": printable(str(error)), "begun": 0}


def _runs_under(folder: Path, depth: int) -> Iterator[Path]:
    if RunFolder(folder).begun:
        yield folder
        return
    if not depth:
        return
    try:
        inside = [Path(entry.path) for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")]
    except OSError:
        return
    for path in inside:
        yield from _runs_under(path, depth - 1)


def _state_of_files(folder: Path) -> object:
    files = RunFolder(folder)
    paths = [path for path in (files.journal, files.metrics, files.settings) if path.exists()]
    return [(path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in paths]
