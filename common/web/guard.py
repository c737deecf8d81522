"""Who may open a local page: this machine; others with a token, over an address that was asked for."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "fedgrpo-token"
LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
}


def is_loopback(host: str) -> bool:
    """Return whether an address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def new_token() -> str:
    """Return a token of 128 random bits."""
    return secrets.token_urlsafe(16)


class Guard:
    """Answers requests by name of this machine, with the token where there is one, and adds the headers of security.

    Names other than this machine's are refused without a token, since a page on the network could otherwise have its
    own name point here (DNS rebinding) and read what it likes.
    """

    def __init__(self, app: ASGIApp, *, token: str = "") -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin", "")
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["method"] not in ("GET", "HEAD") and origin.partition("://")[2] not in ("", host):
            await self._refuse(403, "Another page may not ask this one.", scope, receive, send)
        elif not self._token and _name(host) not in LOCAL_NAMES:
            await self._refuse(421, "Open this page as http://localhost.", scope, receive, send)
        elif self._token and not self._knows(given) and not self._knows(_cookie(headers)):
            await self._refuse(401, "Give the token that the command printed: ?token=...", scope, receive, send)
        else:
            added = {**HEADERS}
            if self._token and given:
                added["set-cookie"] = f"{COOKIE}={self._token}; HttpOnly; SameSite=Strict; Path=/"
            await self._app(scope, receive, _with_headers(send, added))

    def _knows(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token.encode())

    async def _refuse(self, status: int, why: str, scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse(why + "\n", status, HEADERS)(scope, receive, send)


def _name(host: str) -> str:
    """Return the name in a Host header, without the port."""
    return host[: host.rfind("]") + 1] if host.startswith("[") else host.partition(":")[0]


def _cookie(headers: Headers) -> str:
    try:
        cookies = SimpleCookie(headers.get("cookie", ""))
    except CookieError:
        return ""
    return cookies[COOKIE].value if COOKIE in cookies else ""


def _with_headers(send: Send, added: dict[str, str]) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in added.items())]
        await send(message)

    return sending
