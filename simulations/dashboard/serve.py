"""Serving the dashboard: address, token, and the process or thread it runs in."""

from __future__ import annotations

import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from ...common.errors import ConfigError
from .app import dashboard_app
from .guard import is_loopback, new_token
from .runs_folder import RunsFolder

PORT = 8017


@dataclass(frozen=True, slots=True)
class Address:
    """Where a dashboard is served."""

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
            f"The dashboard cannot listen on {host}, port {port}: {reason}. Another one may be running there; give "
            "another --port, or --port 0 for any that is free."
        ) from error
    return Address(taken, host, "" if is_loopback(host) else new_token())


def listen_anywhere() -> Address:
    """Take the usual port on this machine, or another one if that is in use."""
    try:
        return listen("127.0.0.1", PORT)
    except ConfigError:
        return listen("127.0.0.1", 0)


def serve(folder: Path, address: Address) -> None:
    """Serve the runs of a folder until the process is interrupted."""
    _server(folder, address).run(sockets=[address.socket])


@contextmanager
def serving(folder: Path, address: Address) -> Generator[None]:
    """Serve in a thread while the block runs."""
    folder.mkdir(parents=True, exist_ok=True)
    server = _server(folder, address)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [address.socket]}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(timeout=5)


def _server(folder: Path, address: Address) -> uvicorn.Server:
    app = dashboard_app(RunsFolder(folder), token=address.token)
    return uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1))
