"""The lock of a run folder: one process at a time works in it, and others can see whether one does."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ...common.errors import RunError
from .layout import RunFolder

LOCK_PATIENCE_S = 1.0


class BusyError(RunError):
    """Another process is at work in the run's folder."""


@contextmanager
def locked(folder: Path) -> Generator[None]:
    """Keep every other process out of a run folder while the block runs.

    Raises:
        BusyError: another process is at work in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with RunFolder(folder).lock.open("w") as file:
        deadline = time.monotonic() + LOCK_PATIENCE_S
        while not _lock(file):  # `is_busy` holds the lock for a moment
            if time.monotonic() > deadline:
                raise BusyError(f"Another process is at work in {folder}. Wait for it, or end it.")
            time.sleep(0.05)
        yield


def is_busy(folder: Path) -> bool:
    """Return whether a process is at work in a run folder."""
    try:
        with RunFolder(folder).lock.open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
