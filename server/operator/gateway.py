"""The one port that faces the network: TLS, Flower's fleet API and nothing else, and a cap on every body.

Open-source Flower serves everything on one port: whoever reaches it could submit an app of their own to server and
nodes. So the SuperLink listens on 127.0.0.1, and this stands before it.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from pathlib import Path

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from ...common.cli.http import read_body

FLEET = re.compile(r"/v1/fleet/[a-z-]{1,64}")
HOP_BY_HOP = {"connection", "content-length", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
BODY_TIMEOUT_S = 120.0
HEADER_TIMEOUT_S = 10.0
MAX_CONNECTIONS = 1000


def gateway(superlink: str, root_certificates: Path | None, max_body_bytes: int) -> Starlette:
    """Return the gateway in front of a SuperLink.

    Args:
        superlink: its base URL: `https://127.0.0.1:18000`.
        root_certificates: the CA of its certificate; None where the URL is plain http.
        max_body_bytes: a longer request is refused with 413. Flower cuts arrays into chunks of 5 MiB.
    """
    verify = ssl.create_default_context(cafile=str(root_certificates)) if root_certificates else True
    limits = httpx.Limits(max_connections=None)
    upstream = httpx.AsyncClient(base_url=superlink, verify=verify, timeout=BODY_TIMEOUT_S, limits=limits)

    async def fleet(request: Request) -> Response:
        if not FLEET.fullmatch(request.url.path):
            return Response(status_code=404)
        try:
            body = await asyncio.wait_for(read_body(request, max_body_bytes), BODY_TIMEOUT_S)
        except (TimeoutError, ClientDisconnect):
            return Response(status_code=408)
        if body is None:
            return Response(f"a request may have {max_body_bytes} bytes\n", status_code=413)
        headers = [(k, v) for k, v in request.headers.raw if k.decode("latin-1").lower() not in HOP_BY_HOP]
        try:
            answer = await upstream.post(request.url.path, content=body, headers=headers)
        except httpx.TransportError:
            return Response("the SuperLink does not answer; it may be starting\n", status_code=503)
        kept = {k: v for k, v in answer.headers.items() if k.lower() not in (*HOP_BY_HOP, "content-encoding")}
        return Response(answer.content, answer.status_code, headers=kept)

    def health(_: Request) -> Response:
        return Response("ok\n")

    return Starlette(routes=[Route("/health", health), Route("/v1/fleet/{call}", fleet, methods=["POST"])])


class PromptProtocol(H11Protocol):
    """Closes a connection that has not sent a request's header in time: silent ones would use up all there are."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Give the connection some seconds."""
        super().connection_made(transport)
        self.loop.call_later(HEADER_TIMEOUT_S, self._end_if_silent)

    def _end_if_silent(self) -> None:
        if self.cycle is None and not self.transport.is_closing():  # pyright: ignore[reportUnnecessaryComparison]
            self.transport.close()


def serve(app: Starlette, address: str, port: int, certificate: Path | None, key: Path | None) -> None:
    """Serve the gateway until a signal ends it."""
    uvicorn.run(
        app,
        host=address,
        port=port,
        http=PromptProtocol,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=5,
    )
