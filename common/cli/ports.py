"""TCP ports of this machine: free ones, taken ones, and whether somebody listens."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable

from ..errors import ConfigError


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def check_ports(ports: Iterable[tuple[str, str, int]]) -> None:
    """Refuse ports that are taken.

    Args:
        ports: (setting, address, port).

    Raises:
        ConfigError: somebody listens there; the setting is named.
    """
    for setting, address, port in ports:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                raise ConfigError(
                    f"{setting} is {port}, but {address}:{port} cannot be used: {error.strerror}. End what listens "
                    "there, or set another port."
                ) from error


def listens(port: int, address: str = "127.0.0.1") -> bool:
    """Return whether a process listens on a port of this machine; a wildcard address means the loopback."""
    target = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
    with contextlib.suppress(OSError), socket.create_connection((target, port), timeout=1):
        return True
    return False
