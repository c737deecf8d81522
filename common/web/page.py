"""A local page: its files, its JSON, its guard, and how it tells of an error."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from ..errors import FedGRPOError
from ..foreign import printable
from .guard import Guard

SHARED = Path(__file__).parent / "static"


def local_page(
    static: Path,
    routes: Sequence[BaseRoute],
    *,
    index: str = "index.html",
    token: str = "",
    refusal: type[Exception] = FedGRPOError,
) -> Starlette:
    """Return the application of a page.

    Args:
        static: folder of its files; those that all pages share are under `/shared`.
        routes: its JSON.
        index: the file that is shown at `/`.
        token: what a browser has to give; empty answers this machine alone.
        refusal: an error that, beside `FedGRPOError`, is answered with its text and status 422.
    """

    async def first(request: Request) -> Response:
        return FileResponse(static / index)

    return Starlette(
        routes=[
            Route("/", first),
            *routes,
            Mount("/static", StaticFiles(directory=static)),
            Mount("/shared", StaticFiles(directory=SHARED)),
        ],
        middleware=[Middleware(Guard, token=token)],
        exception_handlers={FedGRPOError: _told, refusal: _told},
    )


async def _told(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": printable(str(error))}, 422)
