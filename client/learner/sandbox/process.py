"""One short-lived untrusted process: fed from a sealed file, read up to a limit, and gone when `run` returns."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

CHILD = re.compile(rb'"child-pid": (\d+)')
CHUNK = 1 << 16
GRACE_S = 2.0
"""Time for bubblewrap to end after its child was killed."""
UID = 65533
"""The user that root switches to: not an account of any distribution, so it owns no file and no other process."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The output of a process before it was killed, and the reason: `""` it closed its output, `time`, `output`."""

    output: bytes
    why: str
    complaint: str = ""
    """The last line on standard error: why it did not start. Model-written code has no standard error."""


def run(command: Sequence[str], body: bytes, seconds: float, max_bytes: int, *, contained: bool) -> Ended:
    """Run a command until it closes its output, within a limit of time and bytes, and leave no process behind.

    Args:
        body: standard input of the command.
        max_bytes: bytes that are read of its standard output. The rest is lost.
        contained: the command is bubblewrap, which reports the process id of its child: the child is killed first, so
            that bubblewrap reaps it and no zombie is left in a container whose first process reaps nothing.
    """
    deadline, uid = time.monotonic() + seconds, UID if os.geteuid() == 0 else None
    with contextlib.ExitStack() as stack:
        read_info, write_info = _pipe(stack)
        read_errors, write_errors = _pipe(stack)
        arguments = [command[0], "--info-fd", str(write_info), *command[1:]] if contained else list(command)
        process = subprocess.Popen(
            arguments,
            stdin=_sealed(stack, body),
            stdout=subprocess.PIPE,
            stderr=write_errors,
            env={},
            cwd="/",
            pass_fds=(write_info,) if contained else (),
            start_new_session=True,
            user=uid,
            group=uid,
            extra_groups=None if uid is None else [],
        )
        assert process.stdout is not None
        stack.enter_context(process.stdout)
        try:
            ended = _read(process.stdout.fileno(), deadline, max_bytes)
        finally:
            _end(process, read_info)
        return replace(ended, complaint=_last_line(read_errors))


def _pipe(stack: contextlib.ExitStack) -> tuple[int, int]:
    ends = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    for end in ends:
        stack.callback(os.close, end)
    return ends


def _sealed(stack: contextlib.ExitStack, content: bytes) -> int:
    """Return a file without a name that can be read but never changed; writing to a pipe could block instead."""
    file = os.memfd_create("request", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    stack.callback(os.close, file)
    with os.fdopen(os.dup(file), "wb") as writer:
        writer.write(content)
    os.lseek(file, 0, os.SEEK_SET)
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
    return file


def _read(pipe: int, deadline: float, max_bytes: int) -> Ended:
    output = b""
    for chunk in _chunks(pipe, deadline):
        output += chunk
        if not chunk or len(output) > max_bytes:
            return Ended(output[:max_bytes], "output" if chunk else "")
    return Ended(output, "time")


def _chunks(pipe: int, deadline: float) -> Iterator[bytes]:
    """Yield what a pipe delivers until the deadline; an empty chunk once it is closed."""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    while (seconds := deadline - time.monotonic()) > 0:
        if poll.poll(1000 * seconds):
            yield os.read(pipe, CHUNK)


def _last_line(pipe: int) -> str:
    try:
        lines = os.read(pipe, CHUNK).decode(errors="replace").split("\n")
    except BlockingIOError:
        return ""
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")


def _end(process: subprocess.Popen[bytes], info: int) -> None:
    """Kill a process that may have ended already, with its child, and reap it."""
    with contextlib.suppress(BlockingIOError):
        child = CHILD.search(os.read(info, CHUNK))
        if child and process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child[1]), signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
    process.kill()
    process.wait()
