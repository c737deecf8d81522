"""The learner's jobs: one at a time, known by what was asked, cancelled when nobody waits, kept when done. No torch."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ....common.errors import FedGRPOError, ProtocolError
from ....common.messages.frames import Frame
from ....common.storage.atomic import write_atomic

LOGGER = logging.getLogger("fedgrpo.learner")
LEASE_S = 60.0
"""A job that nobody has asked about for this long is cancelled at its next step."""
KEPT_RESULTS = 8
KEPT_JOBS = 32
MAX_WAITING = 16
ENDED = ("done", "failed", "cancelled")


class BusyError(ProtocolError):
    """Too many jobs wait."""


class Cancelled(FedGRPOError):
    """Nobody waits for this job any more."""


@dataclass(eq=False)
class Job:
    """One request, from the moment it was made."""

    key: str
    frame: Frame
    state: str = "queued"
    """`queued`, `running`, or how it ended: `done`, `failed`, `cancelled`."""
    step: int = 0
    steps: int = 0
    """Steps of training, or batches of answers, and how many there will be."""
    seen: float = field(default_factory=time.monotonic)
    """When somebody last asked about it (monotonic seconds)."""
    started: float = 0.0
    result: bytes = b""
    error: Exception | None = None
    dropped: bool = False

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to wait for."""
        return self.state in ENDED

    def progress(self, step: int, steps: int) -> None:
        """Note how far the work is.

        Raises:
            Cancelled: nobody waits for it.
        """
        self.step, self.steps = step, steps
        self.check()

    def check(self) -> None:
        """End the work here if it was cancelled, or if whoever asked is gone."""
        if self.dropped or time.monotonic() - self.seen > LEASE_S:
            raise Cancelled("nobody waits for this job any more")


class JobQueue:
    """Takes jobs and has them done, one at a time, in a thread of its own.

    What was asked decides the key, so a request that is made again, by a relay that was killed or a server that lost
    the answer, finds the job that is under way or its result, on the disk also after a restart.
    """

    def __init__(self, work: Callable[[Job], Frame], cache: Path, identity: str = "") -> None:
        """A desk whose results are kept in a folder.

        Args:
            identity: what a result depends on besides the request.
        """
        self._work, self._cache, self._identity = work, cache, identity
        self._jobs: dict[str, Job] = {}
        self._changed = threading.Condition()
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        threading.Thread(target=self._run, daemon=True, name="learner").start()

    def submit(self, body: bytes) -> Job:
        """The job for a request: a new one, the one under way, or one that is done.

        Raises:
            ProtocolError: the request cannot be read.
        """
        frame = Frame.unpack(body)
        key = hashlib.sha256(self._identity.encode() + body).hexdigest()
        with self._changed:
            job = self._jobs.get(key)
            if job is None or job.dropped or (job.ended and not self._has_result(job)):
                self._refuse_if_full()
                self._jobs.pop(key, None)
                job = self._jobs[key] = Job(key, frame)
                if self._file(key).exists():
                    job.state = "done"
            job.seen = time.monotonic()
            self._forget_old()
            self._changed.notify_all()
            return job

    def wait(self, key: str, seconds: float) -> Job | None:
        """The job as it stands, at the latest after some seconds; None where there is no such job."""
        with self._changed:
            job = self._jobs.get(key)
            if job is not None:
                job.seen = time.monotonic()
                self._changed.wait_for(lambda: job.ended, timeout=seconds)
                job.seen = time.monotonic()
            return job

    def look(self, key: str) -> Job | None:
        """The job as it stands, from somebody who waits for it; None where there is no such job."""
        with self._changed:
            job = self._jobs.get(key)
            if job is not None:
                job.seen = time.monotonic()
            return job

    def result(self, job: Job) -> bytes:
        """The frame of a job that is done; empty where it was kept on the disk and has been cleared away since."""
        try:
            return job.result or self._file(job.key).read_bytes()
        except OSError:
            return b""

    def cancel(self, key: str) -> None:
        """Nobody waits for this job any more. It ends at its next step; one that has not begun ends now."""
        with self._changed:
            job = self._jobs.get(key)
            if job is not None and not job.ended:
                job.dropped = True
                if job.state == "queued":
                    job.state, job.error = "cancelled", Cancelled("nobody waits for this job any more")
            self._changed.notify_all()

    def current(self) -> Job | None:
        """The job under way."""
        with self._changed:
            return next((job for job in self._jobs.values() if job.state == "running"), None)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._next() is not None)
                job = self._next()
                assert job is not None
                job.state, job.started = "running", time.monotonic()
            self._do(job)

    def _next(self) -> Job | None:
        return next((job for job in self._jobs.values() if job.state == "queued"), None)

    def _do(self, job: Job) -> None:
        try:
            job.check()
            result = self._work(job).pack()
            self._keep(job, result)
            state = "done"
        except Cancelled as error:
            LOGGER.warning("%s was cancelled: nobody waits for it", job.frame.fields.get("kind"))
            result, state, job.error = b"", "cancelled", error
        except Exception as error:
            result, state, job.error = b"", "failed", error
            if isinstance(error, FedGRPOError):
                LOGGER.error("%s", error)
            else:
                LOGGER.exception("the learner failed")
        with self._changed:
            # What is on the disk need not be in memory too, and neither does what was asked.
            job.result, job.state = b"" if self._file(job.key).exists() else result, state
            job.frame = Frame(job.frame.fields)
            job.error = job.error and job.error.with_traceback(None)  # it would hold on to what was in memory
            self._changed.notify_all()

    def _keep(self, job: Job, result: bytes) -> None:
        """Put a finished delta on the disk. One that cannot be kept can be computed again."""
        if job.frame.fields.get("kind") not in ("train", "evaluate"):
            return  # data or policy may be others at the next start
        try:
            write_atomic(self._file(job.key), result)
            kept = sorted(self._cache.glob("*.frame"), key=lambda path: path.stat().st_mtime)
            for path in kept[:-KEPT_RESULTS]:
                path.unlink(missing_ok=True)
        except OSError as error:
            LOGGER.warning("a finished result cannot be kept in %s: %s", self._cache, error.strerror)

    def _has_result(self, job: Job) -> bool:
        return job.state == "done" and bool(job.result or self._file(job.key).exists())

    def _refuse_if_full(self) -> None:
        if sum(not job.ended for job in self._jobs.values()) >= MAX_WAITING:
            raise BusyError("busy", f"{MAX_WAITING} jobs are waiting already")

    def _file(self, key: str) -> Path:
        return self._cache / f"{key}.frame"

    def _forget_old(self) -> None:
        ended = [key for key, job in self._jobs.items() if job.ended]
        for key in ended[:-KEPT_JOBS]:
            del self._jobs[key]
