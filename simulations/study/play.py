"""Playing cells side by side, each in a process of its own that goes on where an earlier one was."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from ...common.errors import RunError
from .study_runs import BUSY, FINISHED, StudyRun

LOOK_S = 0.2
PATIENCE_S = 60.0
"""How long a run has to end orderly, when asked to, before it is killed."""
TAIL_LINES = 12


class Interrupted(RunError):
    """The study was asked to stop. Every committed round of every run is safe."""

    exit_status = 130


@dataclass(slots=True)
class Progress:
    """How far a study is, for whoever watches."""

    waiting: list[StudyRun]
    running: dict[StudyRun, subprocess.Popen[bytes]] = field(default_factory=dict[StudyRun, "subprocess.Popen[bytes]"])
    finished: list[StudyRun] = field(default_factory=list[StudyRun])
    """Played now, and not before."""
    failed: dict[StudyRun, str] = field(default_factory=dict[StudyRun, str])
    """The end of what each said."""


def play(study_runs: Sequence[StudyRun], jobs: int, watch: Callable[[Progress], None]) -> Progress:
    """Play cells until each is finished or has failed; a failed one does not stop the others.

    Args:
        jobs: processes at once.
        watch: called several times a second.

    Raises:
        Interrupted: SIGINT, SIGTERM or SIGHUP came. All processes have ended.
    """
    now = Progress(waiting=list(study_runs))
    with _signals_interrupt():
        try:
            while now.waiting or now.running:
                _begin(now, jobs)
                watch(now)
                time.sleep(LOOK_S)
                _reap(now)
        except KeyboardInterrupt:
            _end(list(now.running.values()))
            raise Interrupted(
                f"Stopped on request, {len(now.waiting) + len(now.running)} runs before the end. "
                "Give the same command again to go on; nothing that is done is done again."
            ) from None
        except BaseException:
            _end(list(now.running.values()))
            raise
    watch(now)
    return now


def _begin(now: Progress, jobs: int) -> None:
    """Start what may start. A cell that another process is at work on waits for its end."""
    for study_run in list(now.waiting):
        if len(now.running) >= jobs:
            return
        state = study_run.state()
        if state == BUSY:
            continue
        now.waiting.remove(study_run)
        if state == FINISHED:
            now.finished.append(study_run)
        else:
            now.running[study_run] = _start(study_run)


def _start(study_run: StudyRun) -> subprocess.Popen[bytes]:
    """In a session of its own: Ctrl-C reaches this process alone, which then asks each run once to end."""
    study_run.log.parent.mkdir(parents=True, exist_ok=True)
    one_thread = {"OMP_NUM_THREADS": "1", **os.environ}
    command = study_run.command()
    with study_run.log.open("wb") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env=one_thread,
            start_new_session=True,
        )


def _reap(now: Progress) -> None:
    for study_run, process in list(now.running.items()):
        if process.poll() is None:
            continue
        del now.running[study_run]
        state = study_run.state()
        if state == FINISHED:
            now.finished.append(study_run)
        elif state == BUSY:  # a run that a killed study left behind began first
            now.waiting.append(study_run)
        else:
            now.failed[study_run] = f"exit status {process.returncode}\n{_tail(study_run)}".strip()


def _tail(study_run: StudyRun) -> str:
    lines = study_run.log.read_text(errors="replace").splitlines()
    return "\n".join(lines[-TAIL_LINES:])


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask every process to end orderly; kill, with its workers, what does not. A second Ctrl-C kills at once.

    SIGTERM, since a shell's background jobs, and so their children, ignore SIGINT until they say otherwise.
    """
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + PATIENCE_S
    try:
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
    finally:
        for process in processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@contextmanager
def _signals_interrupt() -> Generator[None]:
    """Take SIGTERM and SIGHUP as Ctrl-C while the block runs."""
    before = {n: signal.signal(n, _interrupt) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
