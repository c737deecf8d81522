"""One supervised process: its command, its log, and what lines of that log mean."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import RunError

GRACE_S = 10.0
LAST_WORDS = 8000
ROTATE_BYTES = 20_000_000


@dataclass(slots=True)
class Service:
    """One process."""

    name: str
    command: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    ready: Callable[[], bool] = lambda: True
    ready_timeout_s: float = 60.0
    hopeless: Mapping[str, str] = field(default_factory=dict[str, str])
    """Words in its output -> what to do: starting it again would fail the same way."""
    hints: Mapping[str, str] = field(default_factory=dict[str, str])
    """Words in its output -> what they mean, where starting it again may help."""
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    failures: int = 0
    next_start: float = 0.0
    groups: list[int] = field(default_factory=list[int])
    """Process groups of all its lives."""
    said_before: int = 0
    """Bytes of the log from before this process."""
    announcements: Mapping[str, str] = field(default_factory=dict[str, str])
    """Words in its output -> what to print when they appear."""
    loading: str = ""
    """What it does until it is ready."""
    _read: int = 0
    _announced: str = ""

    @property
    def alive(self) -> bool:
        """Return whether its process is running."""
        return self.process is not None and self.process.poll() is None

    def start(self, keep_open: int) -> None:
        """Start the process; `keep_open` is a file descriptor it inherits."""
        self.log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self.log.exists() and self.log.stat().st_size > ROTATE_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        with os.fdopen(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as output:
            self.said_before = self._read = output.seek(0, os.SEEK_END)
            try:
                self.process = subprocess.Popen(
                    list(self.command),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **self.environment},
                    pass_fds=(keep_open,),
                    start_new_session=True,  # Ctrl-C is for the supervisor, which ends them in order
                )
            except OSError as error:
                raise RunError(f"{self.name} cannot be started: {self.command[0]}: {error.strerror}.") from error
        self.groups.append(self.process.pid)
        self.started = time.monotonic()

    def end(self) -> None:
        """Ask the process to end, and make it if it does not."""
        if self.process is not None and self.alive:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=GRACE_S)
        for group in self.groups:  # and what it, or an earlier life of it, may have left behind
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        if self.process is not None:
            self.process.wait()
        self.groups.clear()

    def last_words(self) -> str:
        """Return the end of the process's log."""
        try:
            with self.log.open("rb") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(self.said_before, end - LAST_WORDS))
                return file.read().decode(errors="replace")
        except OSError:
            return ""

    def new_announcements(self) -> list[str]:
        """Return what to print about the lines written since the last call, without repetitions."""
        try:
            with self.log.open("rb") as file:
                file.seek(self._read)
                text = file.read(ROTATE_BYTES)
        except OSError:
            return []
        complete = text[: text.rfind(b"\n") + 1]  # the rest of an unfinished line is read next time
        self._read += len(complete)
        news: list[str] = []
        for line in complete.decode(errors="replace").splitlines():
            found = next((shown for mark, shown in self.announcements.items() if mark in line), "")
            if found and found != self._announced:
                news.append(found)
                self._announced = found
        return news
