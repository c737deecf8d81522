"""Keys that two members agree on, and boxes that only one of them can open.

X25519 (RFC 7748) and HKDF-SHA256 (RFC 5869) make a key, ChaCha20-Poly1305 (RFC 8439) makes a box. Every key is for one
purpose, one pair and one roster: all three are in its derivation.
"""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ..errors import ProtocolError

NONCE_BYTES = 12
MASK, SELF, BOX = b"fedgrpo secagg v1 mask", b"fedgrpo secagg v1 self", b"fedgrpo secagg v1 box"
"""What a key is for."""


def public_of(private: bytes) -> bytes:
    """Return the public key of a private one, 32 bytes each."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def derived(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """Return a key of 32 bytes."""
    return HKDF(hashes.SHA256(), 32, salt, info).derive(secret)


def agreed(private: bytes, public: bytes, salt: bytes, info: bytes) -> bytes:
    """Return the key of 32 bytes that both owners of the two pairs derive.

    Raises:
        ProtocolError: as of `shared`.
    """
    return derived(shared(private, public), salt, info)


def shared(private: bytes, public: bytes) -> bytes:
    """Return the secret of 32 bytes that the owners of the two pairs share; keys are derived from it.

    Raises:
        ProtocolError: the public key is of small order: anybody could know the result (RFC 7748, section 6.1).
    """
    try:
        return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise ProtocolError("secagg.key", "a member's public key is not one that a key can be agreed with") from error


def mask_info(one: str, other: str) -> bytes:
    """Return the purpose of the key of the mask that two members share, the same for both.

    With the names in it, a member that shows another's public key as its own gets another mask with everybody, so that
    the two do not cancel each other out.
    """
    return b"\0".join([MASK, *(name.encode() for name in sorted((one, other)))])


def box_info(sender: str, receiver: str) -> bytes:
    """Return the purpose of the key of one direction's boxes; names hold no zero byte."""
    return b"\0".join([BOX, sender.encode(), receiver.encode()])


def sealed(key: bytes, content: bytes, about: bytes) -> bytes:
    """Return a box: a random nonce, then the content encrypted; `about` is authenticated with it."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, content, about)


def opened(key: bytes, box: bytes, about: bytes) -> bytes:
    """Return what is in a box.

    Raises:
        ProtocolError: it was made with another key or about something else, or was altered.
    """
    try:
        return ChaCha20Poly1305(key).decrypt(box[:NONCE_BYTES], box[NONCE_BYTES:], about)
    except (InvalidTag, ValueError) as error:
        raise ProtocolError("secagg.box", "a box cannot be opened: it was altered, or is meant for another") from error
