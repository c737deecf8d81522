"""The learner's HTTP interface, one method per route.

POST   /v1/jobs           a frame with kind, settings and task; replies {"job": KEY}
GET    /v1/jobs/KEY       waits up to ?wait= seconds; 200 the result's frame, 202 progress, 409 an error's code
DELETE /v1/jobs/KEY       cancels it
GET    /v1/status         what the learner is doing: counts and times, no text of the organisation's
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import Protocol

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ....common import __version__
from ....common.cli.http import read_body
from ....common.errors import ProtocolError
from ....common.foreign import safe_logger
from ....common.messages.frames import MAX_FIELDS_BYTES, VERSION, Frame
from ...organisation.settings import OrganisationFile
from ...relay.error_codes import code_of
from .jobs import Job, JobQueue, QueueFullError

LOGGER = safe_logger("fedgrpo.learner")
MAX_WAIT_S = 30.0
LOOK_S = 0.05
BODY_TIMEOUT_S = 120.0


class HandlesJobs(Protocol):
    """What the service needs of a learner."""

    organisation: OrganisationFile
    ready: bool

    @property
    def identity(self) -> str:
        """What a result depends on besides the request: results of another identity are not taken from the cache."""
        ...

    @property
    def task_bytes(self) -> int:
        """Bytes of the adapter that comes with each task; 0 where that is not known yet."""
        ...

    def do(self, job: Job) -> Frame:
        """Do a job."""
        ...

    def kept(self) -> None:
        """Note that the result of the last job is on the disk."""
        ...


class Interface:
    """The routes, over a queue of jobs."""

    def __init__(self, queue: JobQueue, learner: HandlesJobs) -> None:
        self._queue, self._learner, self._started = queue, learner, time.time()

    def application(self) -> Starlette:
        """Return the ASGI application."""
        routes = [
            Route("/v1/jobs", self.submit, methods=["POST"]),
            Route("/v1/jobs/{key}", self.look, methods=["GET"]),
            Route("/v1/jobs/{key}", self.cancel, methods=["DELETE"]),
            Route("/v1/status", self.status, methods=["GET"]),
        ]
        return Starlette(routes=routes)

    async def submit(self, request: Request) -> Response:
        """Queue a job. A body may be as large as the policy, or the adapter of the run that is set up, requires."""
        most = MAX_FIELDS_BYTES + max(self._learner.organisation.policy.max_bytes_per_round, self._learner.task_bytes)
        try:
            body = await asyncio.wait_for(read_body(request, most), BODY_TIMEOUT_S)
            if body is None:
                LOGGER.error(
                    "A request was refused: it has more than %d bytes: the larger of policy.max-bytes-per-round and "
                    "the largest adapter of a run so far, and %d for its fields. Raise policy.max-bytes-per-round.",
                    most,
                    MAX_FIELDS_BYTES,
                )
                return JSONResponse({"error": "too-large"}, 413)
            job = await run_in_threadpool(self._queue.submit, body)
        except (TimeoutError, ClientDisconnect):
            return JSONResponse({"error": "header"}, 408)
        except QueueFullError as error:
            LOGGER.error("%s", error)
            return JSONResponse({"error": "busy"}, 503)
        except ProtocolError as error:
            LOGGER.error("%s", error)
            return JSONResponse({"error": code_of(error)}, 400)
        return JSONResponse({"job": job.key})

    async def look(self, request: Request) -> Response:
        """Wait for a job, and return its result or its progress."""
        try:
            seconds = min(MAX_WAIT_S, max(0.0, float(request.query_params.get("wait", "0"))))
        except ValueError:
            return JSONResponse({"error": "header"}, 400)
        deadline = time.monotonic() + seconds
        while True:
            job = self._queue.look(request.path_params["key"])
            if job is None or job.ended or time.monotonic() >= deadline or await request.is_disconnected():
                break
            await asyncio.sleep(LOOK_S)
        if job is None or job.state != "done":
            return _reply(job)
        result = await run_in_threadpool(self._queue.result, job)
        return Response(result, media_type="application/octet-stream") if result else _reply(None)

    async def cancel(self, request: Request) -> Response:
        """Cancel a job; it ends at its next step."""
        self._queue.cancel(request.path_params["key"])
        return JSONResponse({})

    async def status(self, _: Request) -> Response:
        """Report who the learner is and what it is doing."""
        job, learner = self._queue.current(), self._learner
        about = {
            "version": VERSION,
            "fedgrpo": __version__,
            "organisation": learner.organisation.name,
            "pid": os.getpid(),
        }
        work = {} if job is None else {"kind": job.frame.fields.get("kind"), **_progress(job)}
        return JSONResponse({**about, "started": self._started, "ready": learner.ready, "job": work})


def _reply(job: Job | None) -> Response:
    if job is None:
        return JSONResponse({"error": "unknown-job"}, 404)
    if job.error is not None:
        return JSONResponse({"error": code_of(job.error)}, 409)
    return JSONResponse(_progress(job), 202)


def _progress(job: Job) -> dict[str, object]:
    seconds = time.monotonic() - job.started if job.started else 0.0
    return {"state": job.state, "step": job.step, "steps": job.steps, "seconds": round(seconds, 1)}
