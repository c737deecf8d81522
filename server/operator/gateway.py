"""The one port that faces the network: TLS, Flower's fleet API and nothing else, and a cap on every body.

Open-source Flower serves everything on one port: whoever reaches it could submit an app of their own to server and
nodes. So the SuperLink listens on 127.0.0.1, and this stands before it.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from pathlib import Path

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from ...common.cli.http import read_body
from .connections import LimitedSocket, Limits, TimedLoop, TimedProtocol

FLEET = re.compile(r"/v1/fleet/[a-z-]{1,64}")
HOP_BY_HOP = {"connection", "content-length", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
BODY_TIMEOUT_S = 120.0
NO_MORE = Limits()


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


def serve(
    app: Starlette, address: str, port: int, certificate: Path | None, key: Path | None, *, limits: Limits = NO_MORE
) -> None:
    """Serve the gateway until a signal ends it."""
    config = uvicorn.Config(
        app,
        http=TimedProtocol,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=5,
    )
    with listening(address, port, limits) as listener, asyncio.Runner(loop_factory=TimedLoop) as runner:
        runner.run(uvicorn.Server(config).serve(sockets=[listener]))


def listening(address: str, port: int, limits: Limits) -> LimitedSocket:
    """Return a socket that listens at an address, within limits."""
    family, _, _, _, where = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listener = LimitedSocket(limits, family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(where)
    return listener
