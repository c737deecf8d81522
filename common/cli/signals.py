"""An orderly end on a signal: what is open is closed before the process goes."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Generator

ENDING = (signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def orderly_end() -> Generator[None]:
    """Turn SIGTERM and SIGHUP into `SystemExit` inside a `with` block, with status 128 + number as in a shell.

    By default they end a process at once: sockets stay, trackers lose what they hold, workers go on without a parent.
    Leaves a signal alone that something else handles or ignores (nohup), and does nothing outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    free = [number for number in ENDING if signal.getsignal(number) is signal.SIG_DFL]
    for number in free:
        signal.signal(number, _exit)
    try:
        yield
    finally:
        for number in free:
            signal.signal(number, signal.SIG_DFL)


def _exit(number: int, _: object) -> None:
    raise SystemExit(128 + number)
