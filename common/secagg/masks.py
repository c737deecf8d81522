"""Masks: a stream cipher's key stream, added to a vector of integers modulo 2^32 or 2^16.

Each key masks one vector once, so that the cipher's counter may begin at 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from ..messages.messages import Words

CHUNK = 1 << 19
"""Bytes of key stream at a time: few enough for a processor's cache."""
ZEROS = bytes(CHUNK)
KEY_BYTES = 32


START = bytes(16)
"""The counter at the beginning of every mask; of ChaCha20 its last 12 bytes are the nonce."""


def _aes_ctr(key: bytes, counter: bytes = START) -> CipherContext:
    return Cipher(algorithms.AES256(key), modes.CTR(counter)).encryptor()


def _chacha20(key: bytes, counter: bytes = START) -> CipherContext:
    return Cipher(algorithms.ChaCha20(key, counter), None).encryptor()


CIPHERS: Mapping[str, Callable[..., CipherContext]] = MappingProxyType({"aes-256-ctr": _aes_ctr, "chacha20": _chacha20})
"""The choices of a manifest's `cipher`: AES-256 in counter mode (NIST SP 800-38A), or ChaCha20 (RFC 8439) where a
processor has no instructions for AES."""


def add_mask(vector: Words, key: bytes, cipher: str, *, subtract: bool = False) -> None:
    """Add the key stream of a key to a vector, in place and modulo its words; or subtract it."""
    stream, combine = CIPHERS[cipher](key), np.subtract if subtract else np.add
    buffer = bytearray(CHUNK + 16)  # some ciphers may write a block more
    mask = np.frombuffer(buffer, vector.dtype, CHUNK // vector.itemsize)
    for start in range(0, vector.size, mask.size):
        part = vector[start : start + mask.size]
        stream.update_into(memoryview(ZEROS)[: part.size * vector.itemsize], buffer)
        combine(part, mask[: part.size], out=part)
