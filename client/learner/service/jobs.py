"""The learner's job queue: serial, deduplicated by request hash, with leases and cached results. No torch."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ....common.errors import FedGRPOError, ProtocolError
from ....common.foreign import safe_logger
from ....common.messages.frames import Frame
from ....common.storage.atomic import PRIVATE, write_atomic

LOGGER = safe_logger("fedgrpo.learner")
LEASE_S = 60.0
"""Seconds without a request for its state after which a job is cancelled at its next step."""
KEPT_RESULTS = 8
KEPT_JOBS = 32
MAX_WAITING = 16
ENDED = ("done", "failed", "cancelled")


class QueueFullError(ProtocolError):
    """Too many jobs are waiting."""


class Cancelled(FedGRPOError):
    """A job that is no longer wanted."""


@dataclass(eq=False)
class Job:
    """One request with its state."""

    key: str
    frame: Frame
    state: str = "queued"
    """`queued`, `running`, or the final state: `done`, `failed`, `cancelled`."""
    step: int = 0
    steps: int = 0
    """Steps of training, or batches of answers: done so far (`step`), and in total."""
    seen: float = field(default_factory=time.monotonic)
    """Time of the last request for its state (monotonic seconds)."""
    started: float = 0.0
    result: bytes = b""
    error: Exception | None = None
    dropped: bool = False

    @property
    def ended(self) -> bool:
        """Whether the job has reached its final state."""
        return self.state in ENDED

    def progress(self, step: int, steps: int) -> None:
        """Record how far the work is.

        Raises:
            Cancelled: the job was cancelled, or its lease has expired.
        """
        self.step, self.steps = step, steps
        self.check()

    def check(self) -> None:
        """Raise `Cancelled` if the job was cancelled, or if nobody has asked for it within the lease."""
        if self.dropped or time.monotonic() - self.seen > LEASE_S:
            raise Cancelled("the job was cancelled, or its client is gone")


class JobQueue:
    """A queue that runs jobs one at a time, in a separate thread.

    The key is a hash of the request. A repeated request, from a relay that was killed or a server that lost the reply,
    finds the running job or its result, which is on disk and survives a restart.
    """

    def __init__(
        self,
        work: Callable[[Job], Frame],
        cache: Path,
        identity: str = "",
        kept: Callable[[], None] = lambda: None,
    ) -> None:
        """Start the thread of a queue whose results are cached in a folder.

        Args:
            identity: everything else that a result depends on, such as data and policy.
            kept: called when a result is on the disk, and before anybody gets it.
        """
        self._work, self._cache, self._identity, self._kept = work, cache, identity, kept
        self._jobs: dict[str, Job] = {}
        self._changed = threading.Condition()
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        threading.Thread(target=self._run, daemon=True, name="learner").start()

    def submit(self, body: bytes) -> Job:
        """Return the job for a request: a new one, the running one, or a finished one.

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
        """Return the job when it has ended, or after some seconds as it is; None if there is no such job."""
        with self._changed:
            job = self._jobs.get(key)
            if job is not None:
                job.seen = time.monotonic()
                self._changed.wait_for(lambda: job.ended, timeout=seconds)
                job.seen = time.monotonic()
            return job

    def look(self, key: str) -> Job | None:
        """Return the current state of a job, and renew its lease; None if there is no such job."""
        with self._changed:
            job = self._jobs.get(key)
            if job is not None:
                job.seen = time.monotonic()
            return job

    def result(self, job: Job) -> bytes:
        """Return the result of a finished job; empty if it was on disk and has been removed since."""
        try:
            return job.result or self._file(job.key).read_bytes()
        except OSError:
            return b""

    def cancel(self, key: str) -> None:
        """Cancel a job. A running one ends at its next step, a queued one at once."""
        with self._changed:
            job = self._jobs.get(key)
            if job is not None and not job.ended:
                job.dropped = True
                if job.state == "queued":
                    job.state, job.error = "cancelled", Cancelled("the job was cancelled, or its client is gone")
            self._changed.notify_all()

    def end(self, seconds: float) -> None:
        """Cancel all jobs, and wait some seconds for the running one to reach its next step."""
        with self._changed:
            for key in self._jobs:
                self.cancel(key)
            self._changed.wait_for(lambda: self.current() is None, timeout=seconds)

    def current(self) -> Job | None:
        """Return the running job, or None."""
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
            self._kept()
            state = "done"
        except Cancelled as error:
            LOGGER.warning("%s was cancelled: its client no longer waits for it", job.frame.fields.get("kind"))
            result, state, job.error = b"", "cancelled", error
        except Exception as error:
            result, state, job.error = b"", "failed", error
            if isinstance(error, FedGRPOError):
                LOGGER.error("%s", error)
            else:
                LOGGER.exception("the learner failed")
        with self._changed:
            # A result on disk need not stay in memory, nor does the body of the request.
            job.result, job.state = b"" if self._file(job.key).exists() else result, state
            job.frame = Frame(job.frame.fields)
            job.error = job.error and job.error.with_traceback(
                None
            )  # a traceback keeps the tensors of its frames in memory
            self._changed.notify_all()

    def _keep(self, job: Job, result: bytes) -> None:
        """Save a finished delta on disk. If that fails, it can be computed again."""
        about = job.frame.fields
        if about.get("kind") not in ("train", "evaluate") and about.get("step") != "mask":
            return  # data or policy may have changed by the next start
        try:
            write_atomic(self._file(job.key), result, PRIVATE)
            kept = sorted(self._cache.glob("*.frame"), key=lambda path: path.stat().st_mtime)
            for path in kept[:-KEPT_RESULTS]:
                path.unlink(missing_ok=True)
        except OSError as error:
            LOGGER.warning("a finished result cannot be saved in %s: %s", self._cache, error.strerror)

    def _has_result(self, job: Job) -> bool:
        return job.state == "done" and bool(job.result or self._file(job.key).exists())

    def _refuse_if_full(self) -> None:
        if sum(not job.ended for job in self._jobs.values()) >= MAX_WAITING:
            raise QueueFullError("busy", f"{MAX_WAITING} jobs are waiting already")

    def _file(self, key: str) -> Path:
        return self._cache / f"{key}.frame"

    def _forget_old(self) -> None:
        ended = [key for key, job in self._jobs.items() if job.ended]
        for key in ended[:-KEPT_JOBS]:
            del self._jobs[key]
