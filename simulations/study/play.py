"""Execution of a study's runs in parallel, each in a separate process that resumes an earlier one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from ...common.errors import ConfigError, RunError
from .study_runs import BUSY, FINISHED, StudyRun

LOOK_S = 0.2
PATIENCE_S = 60.0
"""Seconds for a run to end by itself, when asked to, before it is killed."""
TAIL_LINES = 12


class Interrupted(RunError):
    """A request to stop the study. Every committed round of every run is safe."""

    exit_status = 130


@dataclass(slots=True)
class Progress:
    """The progress of a study, for the display."""

    waiting: list[StudyRun]
    running: dict[StudyRun, subprocess.Popen[bytes]] = field(default_factory=dict[StudyRun, "subprocess.Popen[bytes]"])
    finished: list[StudyRun] = field(default_factory=list[StudyRun])
    """Runs that finished in this process."""
    failed: dict[StudyRun, str] = field(default_factory=dict[StudyRun, str])
    """The end of the log of each failed run."""


def play(study_runs: Sequence[StudyRun], jobs: int, watch: Callable[[Progress], None]) -> Progress:
    """Execute runs until each has finished or failed; a failed one does not stop the others.

    Args:
        jobs: processes at once.
        watch: called several times a second.

    Raises:
        Interrupted: SIGINT, SIGTERM or SIGHUP arrived. All processes have ended.
    """
    progress = Progress(waiting=list(study_runs))
    with _signals_interrupt():
        try:
            while progress.waiting or progress.running:
                _begin(progress, jobs)
                watch(progress)
                time.sleep(LOOK_S)
                _reap(progress)
        except KeyboardInterrupt:
            _end(list(progress.running.values()))
            raise Interrupted(
                f"Stopped on request, {len(progress.waiting) + len(progress.running)} runs before the end. "
                "Give the same command again to go on; nothing that is done is done again."
            ) from None
        except BaseException:
            _end(list(progress.running.values()))
            raise
    watch(progress)
    return progress


def _begin(progress: Progress, jobs: int) -> None:
    """Start the runs that may start. A run that another process is working on waits for its end."""
    for study_run in list(progress.waiting):
        if len(progress.running) >= jobs:
            return
        state = study_run.state()
        if state == BUSY:
            continue
        progress.waiting.remove(study_run)
        if state == FINISHED:
            progress.finished.append(study_run)
        else:
            progress.running[study_run] = _start(study_run)


def _start(study_run: StudyRun) -> subprocess.Popen[bytes]:
    """Start a run in a new session: Ctrl-C reaches this process alone, which then asks each run once to end."""
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


def _reap(progress: Progress) -> None:
    for study_run, process in list(progress.running.items()):
        if process.poll() is None:
            continue
        del progress.running[study_run]
        try:
            state = study_run.state()
        except ConfigError as error:
            progress.failed[study_run] = str(error)
            continue
        if state == FINISHED:
            progress.finished.append(study_run)
        elif state == BUSY:  # a run that a killed study left behind started first
            progress.waiting.append(study_run)
        else:
            progress.failed[study_run] = f"exit status {process.returncode}\n{_tail(study_run)}".strip()


def _tail(study_run: StudyRun) -> str:
    lines = study_run.log.read_text(errors="replace").splitlines()
    return "\n".join(lines[-TAIL_LINES:])


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask every process to end; kill those that do not, with their workers. A second Ctrl-C kills at once.

    Uses SIGTERM, since background jobs of a shell and their children ignore SIGINT by default.
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
    """Treat SIGTERM and SIGHUP like Ctrl-C inside a `with` block."""
    before = {n: signal.signal(n, _interrupt) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
