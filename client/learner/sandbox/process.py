"""One short-lived process that nobody trusts: fed from a sealed file, read up to a cap, and gone when this returns."""

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
"""For bubblewrap to end after what it contains was killed."""
UID = 65533
"""Whom root becomes: no account of any distribution, so it owns no file and no other process."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What a process wrote before it was killed, and why it was: `""` it closed its output, `time`, `output`."""

    output: bytes
    why: str
    complaint: str = ""
    """The last line on standard error: why it did not start. Model-written code has no standard error."""


def run(command: Sequence[str], given: bytes, seconds: float, most: int, *, contained: bool) -> Ended:
    """Run a command to the end of its output, at most for some seconds and bytes; then nothing is left of it.

    Args:
        given: what it reads on standard input.
        most: bytes that are read of its standard output. What else it writes is lost.
        contained: the command is bubblewrap, which is told to say what it starts: that is killed first, so that
            bubblewrap reaps it, and no zombie is left where the first process of a container reaps nothing.
    """
    deadline, uid = time.monotonic() + seconds, UID if os.geteuid() == 0 else None
    with contextlib.ExitStack() as stack:
        read_info, write_info = _pipe(stack)
        read_errors, write_errors = _pipe(stack)
        told = [command[0], "--info-fd", str(write_info), *command[1:]] if contained else list(command)
        process = subprocess.Popen(
            told,
            stdin=_sealed(stack, given),
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
            ended = _read(process.stdout.fileno(), deadline, most)
        finally:
            _end(process, read_info)
        return replace(ended, complaint=_last_line(read_errors))


def _pipe(stack: contextlib.ExitStack) -> tuple[int, int]:
    ends = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    for end in ends:
        stack.callback(os.close, end)
    return ends


def _sealed(stack: contextlib.ExitStack, content: bytes) -> int:
    """A file without a name that can be read and never be changed; writing to a pipe could block instead."""
    file = os.memfd_create("request", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    stack.callback(os.close, file)
    with os.fdopen(os.dup(file), "wb") as writer:
        writer.write(content)
    os.lseek(file, 0, os.SEEK_SET)
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
    return file


def _read(pipe: int, deadline: float, most: int) -> Ended:
    output = b""
    for chunk in _chunks(pipe, deadline):
        output += chunk
        if not chunk or len(output) > most:
            return Ended(output[:most], "output" if chunk else "")
    return Ended(output, "time")


def _chunks(pipe: int, deadline: float) -> Iterator[bytes]:
    """What a pipe brings until the deadline; an empty one where it was closed."""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    while (left := deadline - time.monotonic()) > 0:
        if poll.poll(1000 * left):
            yield os.read(pipe, CHUNK)


def _last_line(pipe: int) -> str:
    try:
        lines = os.read(pipe, CHUNK).decode(errors="replace").split("\n")
    except BlockingIOError:
        return ""
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")


def _end(process: subprocess.Popen[bytes], info: int) -> None:
    """Kill a process that may have ended already, with what it contains, and reap it."""
    with contextlib.suppress(BlockingIOError):
        child = CHILD.search(os.read(info, CHUNK))
        if child and process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child[1]), signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
    process.kill()
    process.wait()
