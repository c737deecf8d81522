"""The dashboard's pages and its JSON, read from run folders. Nothing of it writes."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ...common.errors import FedGRPOError
from ...common.foreign import printable
from ...common.web.page import local_page
from .egress_view import EgressView
from .run_view import RunView
from .runs_folder import RunsFolder

STATIC = Path(__file__).parent / "static"
LOOK_S = 0.5
"""Seconds between two looks at a run's files."""
LIST_EVERY = 4
"""Looks between two at the whole list."""


def dashboard_app(folder: RunsFolder, *, token: str = "") -> Starlette:
    """Return the application that shows the runs of a folder.

    Args:
        token: what a browser has to give; empty answers this machine alone.
    """
    views = _Views(folder)
    routes = [
        Route("/api/runs", views.runs),
        Route("/api/run", views.run),
        Route("/api/metric", views.metric),
        Route("/api/samples", views.samples),
        Route("/api/changes", views.changes),
    ]
    return local_page(STATIC, routes, token=token)


def organisation_app(view: EgressView, *, token: str = "") -> Starlette:
    """Return the application that shows an organisation what has left it."""

    async def egress(request: Request) -> Response:
        await run_in_threadpool(view.update)
        return JSONResponse(view.overview())

    async def version() -> object:
        await run_in_threadpool(view.update)
        return view.version

    async def changes(request: Request) -> Response:
        return StreamingResponse(_told_of(version, LOOK_S), media_type="text/event-stream")

    routes = [Route("/api/egress", egress), Route("/api/changes", changes)]
    return local_page(STATIC, routes, index="organisation.html", token=token)


async def _told_of(version: Callable[[], Awaitable[object]], seconds: float) -> AsyncIterator[str]:
    """Yield an event whenever a version has changed."""
    yield "retry: 2000\n\n"
    last: object = None
    while True:
        try:
            now = await version()
        except (FedGRPOError, HTTPException):
            now = "gone"
        if now != last:
            yield f"data: {json.dumps(now)}\n\n"
            last = now
        await asyncio.sleep(seconds)


class _Views:
    """The answers. Files are read in threads, one at a time, as a view is not made for two."""

    def __init__(self, folder: RunsFolder) -> None:
        self._folder, self._reading = folder, asyncio.Lock()

    async def runs(self, request: Request) -> Response:
        async with self._reading:
            found = await run_in_threadpool(self._folder.summaries)
        return JSONResponse({"folder": printable(str(self._folder.folder)), "runs": found})

    async def run(self, request: Request) -> Response:
        return await self._of_run(request, lambda view: view.overview())

    async def metric(self, request: Request) -> Response:
        metric = request.query_params.get("metric", "")
        return await self._of_run(request, lambda view: view.client_metric(metric))

    async def samples(self, request: Request) -> Response:
        return await self._of_run(request, lambda view: view.samples())

    async def changes(self, request: Request) -> Response:
        """Stream an event whenever the run, or without one the list of runs, has changed."""
        name = request.query_params.get("run", "")
        if name:
            await self._version(name)
        version = functools.partial(self._version, name) if name else self._versions
        return StreamingResponse(
            _told_of(version, LOOK_S if name else LOOK_S * LIST_EVERY), media_type="text/event-stream"
        )

    async def _version(self, name: str) -> list[object]:
        async with self._reading:
            view = await run_in_threadpool(self._view, name)
            return [view.version, view.state(), view.received()]

    async def _versions(self) -> list[object]:
        async with self._reading:
            found = await run_in_threadpool(self._folder.summaries)
        return [[run["name"], run["state"], run.get("version")] for run in found]

    async def _of_run(self, request: Request, answer: Callable[[RunView], object]) -> Response:
        name = request.query_params.get("name", "")
        async with self._reading:
            found = await run_in_threadpool(lambda: answer(self._view(name)))
        return JSONResponse(found)

    def _view(self, name: str) -> RunView:
        try:
            return self._folder.view(name)
        except KeyError:
            raise HTTPException(404, "there is no such run") from None
