"""Following a run until it ends, by its folder and by what Flower says."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from ...common.errors import RunError
from ..run.journal import Journal
from ..run.layout import RunFolder
from ..run.lock import is_busy
from ..run.status import RunStatus, stop_reason
from .flwr_cli import Flower

LOOK_S = 1.0
ASK_FLOWER_S = 15.0
DEAD_S = 5.0
"""A run whose ServerApp let go of the run folder this long ago without finishing has lost it."""

Watch = Callable[[], None]


class Follower:
    """Watches a run's folder, which changes at once, and now and then asks Flower, which takes seconds."""

    def __init__(self, flower: Flower, run_id: int, folder: Path, say: Callable[[str], None]) -> None:
        self._flower, self._run_id, self._folder, self._say = flower, run_id, folder, say
        self._seen_busy = False
        self._free_since = 0.0

    def follow(self, watch: Watch) -> RunStatus | None:
        """Wait for the end of this Flower run; returns how the federation stands, if it has begun."""
        next_question = time.monotonic() + ASK_FLOWER_S
        while not (self._ended_by_itself() or self._died()):
            watch()
            time.sleep(LOOK_S)
            if time.monotonic() >= next_question:
                if self._flower_gave_up():
                    break
                next_question = time.monotonic() + ASK_FLOWER_S
        watch()
        return RunStatus.read(self._folder) if RunFolder(self._folder).settings.exists() else None

    def _ended_by_itself(self) -> bool:
        if stop_reason(self._folder):
            return True
        return Journal.read(RunFolder(self._folder).journal).finished and not is_busy(self._folder)

    def _died(self) -> bool:
        """Return whether the ServerApp has released the run folder without finishing; stop the Flower run if so."""
        now = time.monotonic()
        if is_busy(self._folder):
            self._seen_busy, self._free_since = True, 0.0
        elif self._seen_busy:
            self._free_since = self._free_since or now
            if now - self._free_since > DEAD_S:
                self._stop_flower()
                return True
        return False

    def _flower_gave_up(self) -> bool:
        try:
            return self._flower.status(self._run_id).startswith("finished")
        except RunError as error:
            self._say(f"cannot ask the SuperLink: {error}")
            return False

    def _stop_flower(self) -> None:
        try:
            self._flower.stop(self._run_id)
        except RunError as error:  # it may have failed already, or the SuperLink may be starting
            self._say(f"Flower run {self._run_id}: {error}")
