"""The gateway's limits of time and number: nobody holds its connections by sending slowly, or all of them."""

import socket
import ssl
import threading
import time

import pytest
import uvicorn
from fedgrpo.common.cli import keys
from fedgrpo.common.cli.ports import free_ports, listens
from fedgrpo.server.operator import connections
from fedgrpo.server.operator.connections import Limits, network_of
from fedgrpo.server.operator.gateway import serve
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

LIMIT_S = 1.0
FEW = Limits()
PATIENCE_S = 20.0
REQUEST = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"


async def answer(request):
    return PlainTextResponse(f"{len(await request.body())} bytes")


@pytest.fixture
def started(monkeypatch):
    """Start the gateway's server with short limits of time; returns its port."""
    for name in ("HANDSHAKE_S", "HEADER_S", "REQUEST_S"):
        monkeypatch.setattr(connections, name, LIMIT_S)
    servers, threads = [], []

    class Kept(uvicorn.Server):
        def __init__(self, config):
            super().__init__(config)
            servers.append(self)

    monkeypatch.setattr(uvicorn, "Server", Kept)

    def start(limits=FEW, certificate=None, key=None):
        (port,) = free_ports(1)
        app = Starlette(routes=[Route("/health", answer, methods=["GET", "POST"])])
        thread = threading.Thread(
            target=serve, args=(app, "127.0.0.1", port, certificate, key), kwargs={"limits": limits}
        )
        thread.start()
        threads.append(thread)
        deadline = time.monotonic() + PATIENCE_S
        while not listens(port):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(0.1)  # the look above was a connection too
        return port

    yield start
    for server in servers:
        server.should_exit = True
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def connected(port):
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)


def seconds_until_closed(line, drip=b""):
    """Send a byte of `drip` now and then until the other side ends the connection."""
    begun, line_timeout = time.monotonic(), 0.1
    line.settimeout(line_timeout)
    while time.monotonic() - begun < PATIENCE_S:
        try:
            if drip:
                line.send(drip)
            if not line.recv(4096):
                break
        except TimeoutError:
            continue
        except OSError:
            break
    return time.monotonic() - begun


@pytest.mark.parametrize(
    ("first", "drip"),
    [
        (b"", b""),  # silent
        (b"GET /health HTTP/1.1\r\n", b"x"),  # a header without end
        (b"GET /health HTTP/1.1\r\nx: ", b"x"),
        (REQUEST + b"GET /health HTTP/1.1\r\n", b"x"),  # the same after a request that was whole
        (b"POST /health HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n", b"x"),  # a body without end
        (b"POST /other HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n", b"x"),  # that nobody reads
    ],
)
def test_who_sends_slowly_is_closed_in_time(started, first, drip):
    with connected(started()) as line:
        line.sendall(first)
        assert LIMIT_S / 2 < seconds_until_closed(line, drip) < PATIENCE_S / 2


def test_a_tls_handshake_that_does_not_come_is_closed_in_time(started, tmp_path):
    keys.make_authority(tmp_path)
    keys.make_server(tmp_path, ("localhost", "127.0.0.1"))
    port = started(certificate=tmp_path / "server.pem", key=tmp_path / "server.key")
    with connected(port) as line:
        assert seconds_until_closed(line) < PATIENCE_S / 2
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
    with connected(port) as line, context.wrap_socket(line, server_hostname="localhost") as safe:
        safe.sendall(REQUEST)
        assert b"200 OK" in safe.recv(4096)
        assert seconds_until_closed(safe) < PATIENCE_S / 2


def open_lines(port, count):
    """Open connections, and return those that the server has not closed at once."""
    lines = [connected(port) for _ in range(count)]
    for line in lines:
        line.settimeout(0.05)
    kept = []
    for line in lines:
        try:
            if line.recv(1):
                kept.append(line)
        except TimeoutError:
            kept.append(line)
        except OSError:
            pass
    return lines, kept


@pytest.mark.parametrize("limits", [Limits(per_address=5), Limits(total=5)])
def test_connections_beyond_the_limit_are_closed_as_they_come_and_others_are_served(started, monkeypatch, limits):
    monkeypatch.setattr(connections, "HEADER_S", PATIENCE_S)
    port = started(limits)
    lines, kept = open_lines(port, 12)
    assert len(kept) == 5
    kept[0].settimeout(PATIENCE_S)
    kept[0].sendall(REQUEST)
    assert b"200 OK" in kept[0].recv(4096)
    for line in lines:
        line.close()
    deadline = time.monotonic() + PATIENCE_S
    while not listens(port) or len(open_lines(port, 1)[1]) != 1:  # what was closed counts no more
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_one_address_cannot_take_the_place_of_another():
    assert network_of("192.0.2.7") == network_of("::ffff:192.0.2.7") != network_of("192.0.2.8")
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:1%eth0") != network_of("2001:db8:0:1::1")
