"""What an organisation keeps on its disk from one of its rounds for the next, by round and attempt.

The server says which round and attempt of this client counted last. What each round under way leaves behind is on disk
under that name, so a round that is void, repeated or resumed after a crash, by this process or another, goes on from
the right one.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from ....common.messages.messages import TrainTask
from ....common.storage.atomic import PRIVATE, write_atomic

KEPT_ROUNDS = 2
"""Files of this many rounds before the last that counted are kept: a server may have to go back."""
MOST_FILES, MOST_FEDERATIONS = 12, 4
"""Limits on files per federation and on federations, which hold whatever the server says."""


class RoundFiles:
    """One file for each attempt at a round: FOLDER/FEDERATION/ROUND-ATTEMPT.SUFFIX."""

    def __init__(self, folder: Path, suffix: str) -> None:
        self._folder, self._suffix = folder, suffix

    def counted(self, task: TrainTask) -> Path | None:
        """Return the path of the file of the last round that counted, whether it is there or not; None if none did."""
        if task.counted_round == 0:
            return None
        return self._file(task.federation, task.counted_round, task.counted_attempt)

    def keep(self, task: TrainTask, data: bytes) -> None:
        """Save what a round under way leaves, and remove those that the server can no longer ask for."""
        new = self._file(task.federation, task.round, task.attempt)
        new.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(new, data, PRIVATE)
        kept = sorted(new.parent.glob(f"*.{self._suffix}"), key=lambda path: path.stat().st_mtime_ns)
        old = [path for path in kept if int(path.stem.split("-")[0]) < task.counted_round - KEPT_ROUNDS]
        for path in {*old, *kept[:-MOST_FILES]} - {
            new,
            self.counted(task),
        }:  # the next attempt may need `counted` again
            path.unlink(missing_ok=True)
        for folder in sorted(self._folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)[:-MOST_FEDERATIONS]:
            shutil.rmtree(folder, ignore_errors=True)

    def _file(self, federation: str, number: int, attempt: int) -> Path:
        return self._folder / federation / f"{number}-{attempt}.{self._suffix}"
