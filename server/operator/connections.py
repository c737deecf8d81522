"""Limits of time and number for the gateway's connections: nobody holds them by sending slowly, or all of them.

uvicorn has a limit of all requests, and of an idle connection, but neither one of the time a header takes nor one by
address. A proxy such as nginx has both and may stand before the gateway; these are the limits of a gateway that stands
alone.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections import Counter
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

HANDSHAKE_S = 10.0
HEADER_S = 10.0
REQUEST_S = 600.0
"""From the end of a header to the end of the answer: the body, Flower's answer, and a client that reads slowly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How many connections may be open."""

    total: int = 1000
    per_address: int = 100


class LimitedSocket(socket.socket):
    """A listening socket that closes connections beyond its limits as they come, before TLS costs anything."""

    def __init__(self, limits: Limits, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._limits = limits
        self._open: Counter[str] = Counter()

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection.

        Raises:
            ConnectionAbortedError: it was one too many, and is closed; the event loop goes on with the next.
        """
        plain, address = super().accept()
        key = network_of(str(address[0]))
        if self._open.total() >= self._limits.total or self._open[key] >= self._limits.per_address:
            plain.close()
            raise ConnectionAbortedError("too many connections")
        self._open[key] += 1
        return _Counted(self._open, key, plain), address


class _Counted(socket.socket):
    """A connection that is counted until it is closed."""

    def __init__(self, counts: Counter[str], key: str, plain: socket.socket) -> None:
        super().__init__(plain.family, plain.type, plain.proto, fileno=plain.detach())
        self._counts, self._key, self._is_counted = counts, key, True

    def close(self) -> None:
        if self._is_counted:
            self._is_counted = False
            self._counts -= Counter({self._key: 1})
        super().close()


def network_of(address: str) -> str:
    """Return what counts as one address: an IPv4 address, or the /64 of an IPv6 one, which a single host may own.

    >>> network_of("192.0.2.7"), network_of("::ffff:192.0.2.7"), network_of("2001:db8::1:2")
    ('192.0.2.7', '192.0.2.7', '2001:db8::/64')
    """
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)


class TimedLoop(asyncio.SelectorEventLoop):
    """An event loop whose servers give a TLS handshake, and its end, some seconds; uvicorn passes no limit on."""

    async def create_server(self, *arguments: Any, **named: Any) -> asyncio.Server:
        """See `asyncio.loop.create_server`."""
        if named.get("ssl") is not None:
            named = {"ssl_handshake_timeout": HANDSHAKE_S, "ssl_shutdown_timeout": HANDSHAKE_S, **named}
        return await super().create_server(*arguments, **named)


class TimedProtocol(H11Protocol):
    """Ends a connection whose next header, or whose answer to one, is not complete in time."""

    _timed: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Give the first header some seconds."""
        super().connection_made(transport)
        self._expect_header()

    def on_response_complete(self) -> None:
        """Give the next header some seconds; a body that nobody reads counts as a header that does not come."""
        super().on_response_complete()
        self._expect_header()

    def handle_events(self) -> None:
        """Give a request that has begun the time for its body and answer."""
        super().handle_events()
        if self.cycle is not self._timed:
            self._timed = self.cycle
            self.loop.call_later(REQUEST_S, self._end_if_unanswered, self.cycle)

    def _expect_header(self) -> None:
        self.loop.call_later(HEADER_S, self._end_if_still, self.cycle)

    def _end_if_still(self, cycle: RequestResponseCycle | None) -> None:
        if self.cycle is cycle:
            self.transport.abort()  # close() would wait for a peer that may not read

    def _end_if_unanswered(self, cycle: RequestResponseCycle) -> None:
        if self.cycle is cycle and not cycle.response_complete:
            self.transport.abort()
