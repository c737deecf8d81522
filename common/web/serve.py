"""Serving a local page: address, token, and the process or thread it runs in."""

from __future__ import annotations

import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn
from starlette.types import ASGIApp

from ..errors import ConfigError
from .guard import is_loopback, new_token


@dataclass(frozen=True, slots=True)
class Address:
    """Where a page is served."""

    socket: socket.socket
    host: str
    token: str
    """What a browser has to give; empty on this machine alone."""

    @property
    def url(self) -> str:
        """Return the page's address, with the token."""
        port = self.socket.getsockname()[1]
        shown = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{shown}:{port}/" + (f"?token={self.token}" if self.token else "")


def listen(host: str, port: int) -> Address:
    """Take an address, before anything is shown.

    Raises:
        ConfigError: the port is in use, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    taken = socket.socket(family, socket.SOCK_STREAM)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((host, port))
        taken.listen(64)
    except (OSError, OverflowError) as error:
        taken.close()
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"The page cannot be served on {host}, port {port}: {reason}. Another one may be running there; give "
            "another --port, or --port 0 for any that is free."
        ) from error
    return Address(taken, host, "" if is_loopback(host) else new_token())


def listen_anywhere(port: int) -> Address:
    """Take a port on this machine, or another one if that is in use."""
    try:
        return listen("127.0.0.1", port)
    except ConfigError:
        return listen("127.0.0.1", 0)


def serve(app: ASGIApp, address: Address) -> None:
    """Serve an application until the process is interrupted."""
    _server(app).run(sockets=[address.socket])


@contextmanager
def serving(app: ASGIApp, address: Address) -> Generator[None]:
    """Serve in a thread while the block runs."""
    server = _server(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [address.socket]}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(timeout=5)


def _server(app: ASGIApp) -> uvicorn.Server:
    return uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1))
