"""A party's trackers, each in a thread of its own: whoever logs never waits, and none of them ends a run.

What a tracker was given is noted beside its files, `NAME.json` in the trackers' folder: its run's id, and how far it
came with each series. So a resumed run goes on in the same tracker's run, and no point is given twice.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..storage.atomic import write_atomic
from .libraries import OPENERS, Figures, Opened, Place
from .names import Use

LOGGER = logging.getLogger("fedgrpo.trackers")
MOST_WAITING = 10_000
"""Points that may wait for a tracker. One that is so far behind is left out."""
CLOSE_S = 15.0
"""Seconds that the end of a run waits for all its trackers together."""
SECRETS = ("WANDB_API_KEY", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD", "HF_TOKEN", "TRACKIO_WRITE_TOKEN")


@dataclass(frozen=True, slots=True)
class Point:
    """Figures at one step of one series, such as the rounds."""

    series: str
    step: int
    figures: Figures


class Trackers:
    """The trackers that a party uses. None of its methods raises, and none waits, but for `close`."""

    def __init__(self, uses: Sequence[Use], place: Place) -> None:
        """Start them.

        Args:
            place: its folder is that of all of them; each gets one of its own in it.
        """
        self._all = [_Tracker(use.name, replace(place, folder=place.folder / use.name, url=use.url)) for use in uses]

    def log(self, point: Point) -> None:
        """Give every tracker a point, unless it has had this step of the series, or a later one, already."""
        for tracker in self._all:
            tracker.give(point)

    def end(self) -> None:
        """Tell the trackers that nothing more comes, and do not wait for them."""
        for tracker in self._all:
            tracker.end()

    def close(self) -> None:
        """Let the trackers finish, within `CLOSE_S` in all."""
        deadline = time.monotonic() + CLOSE_S
        self.end()
        for tracker in self._all:
            tracker.wait(max(0.0, deadline - time.monotonic()))


@dataclass(eq=False)
class _Tracker:
    """One tracker: a queue, a thread that empties it into the library, and a note of what it was given."""

    name: str
    place: Place
    given: dict[str, int] = field(default_factory=dict[str, int])
    """Series -> last step."""
    failed: bool = False

    def __post_init__(self) -> None:
        self._note = self.place.folder.with_suffix(".json")
        self._waiting: queue.Queue[Point | None] = queue.Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._work, daemon=True, name=f"tracker {self.name}")
        self._thread.start()

    def give(self, point: Point) -> None:
        if not self.failed:
            self._put(point)

    def end(self) -> None:
        self._put(None)

    def wait(self, seconds: float) -> None:
        self._thread.join(seconds)
        if self._thread.is_alive() and not self.failed:
            self.failed = True
            LOGGER.warning("%s has not finished after %.0f s, and is not waited for.", self.name, CLOSE_S)

    def _put(self, point: Point | None) -> None:
        try:
            self._waiting.put_nowait(point)
        except queue.Full:
            self._leave_out(f"{MOST_WAITING} points wait for it")

    def _work(self) -> None:
        # Whatever a tracker's library may raise, training goes on: this is the shell that stands between them.
        try:
            self.place.folder.mkdir(parents=True, exist_ok=True)
            opened = self._opened()
            while (point := self._waiting.get()) is not None and not self.failed:
                self._log(opened, point)
            opened.close()
        except Exception as error:
            self._leave_out(f"{type(error).__name__}: {without_secrets(str(error)).strip().split(chr(10))[0]}")

    def _opened(self) -> Opened:
        known = ""
        if self._note.exists():
            note: dict[str, Any] = json.loads(self._note.read_bytes())
            known, self.given = str(note["run"]), dict(note["given"])
        opened = OPENERS[self.name](self.place, known)
        self._write(opened.id)
        return opened

    def _log(self, opened: Opened, point: Point) -> None:
        if point.step <= self.given.get(point.series, -1):
            return
        opened.log(point.step, point.figures)
        self.given[point.series] = point.step
        self._write(opened.id)

    def _write(self, run: str) -> None:
        write_atomic(self._note, json.dumps({"run": run, "given": self.given}).encode())

    def _leave_out(self, reason: str) -> None:
        if not self.failed:
            self.failed = True
            LOGGER.warning("%s failed and is left out from now on. Training goes on. (%s)", self.name, reason)


def without_secrets(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """A text in which no token of the environment stands."""
    for name in SECRETS:
        if secret := environment.get(name):
            text = text.replace(secret, f"({name})")
    return text


def last_step(folder: Path, series: str) -> int:
    """The last step of a series that any tracker in the folder was given; 0 where none was."""
    steps = [0]
    for note in folder.glob("*.json"):
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):  # its tracker says that it is damaged
            steps.append(int(json.loads(note.read_bytes())["given"].get(series, 0)))
    return max(steps)
