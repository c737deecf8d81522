"""A script that runs a command for as long as its parent lives: `python child_guard.py COMMAND ...`.

Its standard input is a pipe that the parent holds. When the parent closes it, or dies for any reason, the command and
all its child processes are ended. Imports the standard library only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

GRACE_S = 15.0


def main() -> int:
    """Run the command, and return its exit status."""
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True)
    threading.Thread(target=_end_with_parent, args=(process,), daemon=True).start()
    status = process.wait()
    _signal(process, signal.SIGKILL)  # its child processes may have outlived it
    return status


def _end_with_parent(process: subprocess.Popen[bytes]) -> None:
    while os.read(0, 1):
        pass
    for number in (signal.SIGTERM, signal.SIGKILL):
        _signal(process, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
    os._exit(1)


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to the command and its child processes, which are a process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


if __name__ == "__main__":
    for stop in (signal.SIGINT, signal.SIGTERM):
        # The parent decides, by closing the pipe. No SIG_IGN: the command would inherit it, and not end on SIGTERM.
        signal.signal(stop, lambda *_: None)
    sys.exit(main())
