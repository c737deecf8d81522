"""Public Ed25519 keys: their one line of text, and which are refused."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from ..errors import ConfigError

BYTES = 32
KIND = "ssh-ed25519"
BEGINS = b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20"
"""Of the binary form of an Ed25519 key in OpenSSH's format (RFC 8709, section 4); the key follows."""
P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P
"""Field and constant of the curve (RFC 8032, section 5.1)."""


def as_text(public: bytes) -> str:
    """Return a public key as one line of OpenSSH's format: `ssh-ed25519 AAAA...`."""
    return f"{KIND} {base64.b64encode(BEGINS + public).decode()}"


def from_text(text: str) -> bytes:
    """Return the 32 bytes of a key that `as_text` wrote; a comment after it is ignored.

    Raises:
        ConfigError: it is no such line, or a key that `check` refuses.
    """
    kind, _, rest = text.strip().partition(" ")
    words = rest.split()
    try:
        data = base64.b64decode(words[0], validate=True) if words and kind == KIND else b""
    except (binascii.Error, ValueError):
        data = b""
    public = data.removeprefix(BEGINS)
    if len(data) != len(BEGINS) + BYTES or len(public) != BYTES or as_text(public) != f"{kind} {words[0]}":
        raise ConfigError(f"is not a public identity key: one line that begins with {KIND!r}.")
    check(public)
    return public


def read(path: Path) -> bytes:
    """Return the key in a file NAME.pub.

    Raises:
        ConfigError: the file cannot be read, or holds something else; it is named.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not a public identity key: it is not text.") from error
    secret = " It holds a private key, which must not leave: give NAME.identity.pub." if "PRIVATE" in text else ""
    try:
        return from_text(text)
    except ConfigError as error:
        raise ConfigError(f"{path} {error}{secret}") from error


def check(public: bytes) -> None:
    """Refuse bytes that are not the canonical encoding of a point that a private key can have.

    A point of small order is the dangerous case: signatures under it can be made without a private key. Whether a point
    has one is seen by X25519, whose result is then zero (RFC 7748, section 6.1), on the same point as a Montgomery
    coordinate, u = (1 + y) / (1 - y) (RFC 7748, section 4.1).

    Raises:
        ConfigError: says why.
    """
    if len(public) != BYTES:
        raise ConfigError(f"has {len(public)} bytes; an Ed25519 key has {BYTES}.")
    y = int.from_bytes(public, "little") & ((1 << 255) - 1)
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P  # x^2 of the curve's equation; D y^2 + 1 is never 0
    if y >= P or (square and pow(square, (P - 1) // 2, P) != 1):
        raise ConfigError("is not a point of the curve Ed25519. Was the line cut or changed on its way?")
    if y == 1 or _small_order((1 + y) * pow(1 - y, -1, P) % P):
        raise ConfigError("is a point of small order, for which anybody can sign. Ask for another key.")


def _small_order(u: int) -> bool:
    try:
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(u.to_bytes(BYTES, "little")))
    except ValueError:  # the shared secret is zero
        return True
    return False
