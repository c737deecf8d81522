"""The trackers of a server or client, each in its own thread: logging never waits, and a tracker never ends a run.

A file beside each tracker's files, `NAME.json` in the trackers' folder, records its run id and the last step of each
series. So a resumed run continues the same tracker run, and no point is logged twice.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..foreign import safe_logger
from ..storage.atomic import write_atomic
from .libraries import OPENERS, Figures, Opened, Place
from .names import Use

LOGGER = safe_logger("fedgrpo.trackers")
MOST_WAITING = 10_000
"""Points that may wait for a tracker. A tracker that falls further behind is dropped."""
CLOSE_S = 15.0
"""Seconds to wait at the end of a run, for all trackers together."""
SECRETS = ("WANDB_API_KEY", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD", "HF_TOKEN", "TRACKIO_WRITE_TOKEN")


@dataclass(frozen=True, slots=True)
class Point:
    """Figures at one step of one series, such as the rounds."""

    series: str
    step: int
    figures: Figures


class Trackers:
    """All trackers of a server or client. The methods never raise, and only `close` waits."""

    def __init__(self, uses: Sequence[Use], place: Place) -> None:
        """Start the trackers.

        Args:
            place: its folder is for all of them; each gets a subfolder.
        """
        self._all = [_Tracker(use.name, replace(place, folder=place.folder / use.name, url=use.url)) for use in uses]

    def log(self, point: Point) -> None:
        """Give every tracker a point, unless it already has this or a later step of the series."""
        for tracker in self._all:
            tracker.give(point)

    def end(self) -> None:
        """End the trackers without waiting for them."""
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
    """One tracker: a queue, a thread that passes points to the library, and a record of what was logged."""

    name: str
    place: Place
    logged: dict[str, int] = field(default_factory=dict[str, int])
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
            LOGGER.warning("%s has not finished after %.0f s; continuing without waiting for it.", self.name, CLOSE_S)

    def _put(self, point: Point | None) -> None:
        try:
            self._waiting.put_nowait(point)
        except queue.Full:
            self._leave_out(f"{MOST_WAITING} points wait for it")

    def _work(self) -> None:
        # Training continues whatever a tracker's library raises, so this catches every exception.
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
            known, self.logged = str(note["run"]), dict(note["given"])
        opened = OPENERS[self.name](self.place, known)
        self._write(opened.id)
        return opened

    def _log(self, opened: Opened, point: Point) -> None:
        if point.step <= self.logged.get(point.series, -1):
            return
        opened.log(point.step, point.figures)
        self.logged[point.series] = point.step
        self._write(opened.id)

    def _write(self, run: str) -> None:
        write_atomic(self._note, json.dumps({"run": run, "given": self.logged}).encode())

    def _leave_out(self, reason: str) -> None:
        if not self.failed:
            self.failed = True
            LOGGER.warning("%s failed and is left out from now on. Training goes on. (%s)", self.name, reason)


def without_secrets(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return a text with every token of the environment replaced by its variable's name."""
    for name in SECRETS:
        if secret := environment.get(name):
            text = text.replace(secret, f"({name})")
    return text


def last_step(folder: Path, series: str) -> int:
    """Return the last step of a series that any tracker in the folder has logged; 0 if there is none."""
    steps = [0]
    for note in folder.glob("*.json"):
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):  # its tracker reports a damaged file
            steps.append(int(json.loads(note.read_bytes())["given"].get(series, 0)))
    return max(steps)
