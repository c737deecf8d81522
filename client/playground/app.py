"""The playground's page and its JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ...common.web.page import local_page
from .scoring import Refused, Workbench

STATIC = Path(__file__).parent / "static"
LONGEST_REQUEST = 2_000_000
"""Bytes."""


def playground_app(bench: Workbench, *, token: str = "") -> Starlette:
    """Return the application that scores what its page sends."""
    answers = _Answers(bench)
    routes = [
        Route("/api/start", answers.start),
        Route("/api/version", answers.version),
        Route("/api/spread", answers.spread),
        Route("/api/score", answers.score, methods=["POST"]),
    ]
    return local_page(STATIC, routes, token=token, refusal=Refused)


class _Answers:
    """The answers. Rewards run one request at a time: an organisation's function need not be made for two."""

    def __init__(self, bench: Workbench) -> None:
        self._bench, self._scoring = bench, asyncio.Lock()

    async def start(self, request: Request) -> Response:
        bench = self._bench
        spec = request.query_params.get("rewards", "") or bench.spec
        if spec not in bench.choices:
            raise Refused(f"{spec!r:.80} is not one of the rewards that this page may use")
        number = request.query_params.get("group", "")
        groups = bench.groups if spec == bench.spec else []
        known = number.isdigit() and int(number) < len(groups)
        example = groups[int(number)] if known else bench.start(spec)
        given = {"choices": bench.choices, "own": bench.own_spec, "groups": len(groups)}
        return JSONResponse({**given, "rewards": spec, "example": example, "version": bench.version()})

    async def version(self, request: Request) -> Response:
        return JSONResponse(self._bench.version())

    async def spread(self, request: Request) -> Response:
        return await self._run(self._bench.spread)

    async def score(self, request: Request) -> Response:
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            raise Refused("the request is not JSON")
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > LONGEST_REQUEST:
                raise Refused(f"the request is longer than {LONGEST_REQUEST} bytes")
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise Refused("the request is not JSON") from error
        if not isinstance(asked, dict):
            raise Refused("the request is not an object")
        return await self._run(lambda: self._bench.score(asked))

    async def _run(self, work: Callable[[], Any]) -> Response:
        async with self._scoring:
            return JSONResponse(await run_in_threadpool(work))
