"""Masks: a stream cipher's key stream, added to a vector of integers modulo 2^32 or 2^16.

Each key masks one vector once, so that the cipher's counter may begin at 0.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from ..messages.messages import Words

CHUNK = 1 << 17
"""Bytes of key stream at a time: few enough for a processor's cache, beside as many of the vector."""
ZEROS = memoryview(bytes(CHUNK))
THREADS, CHUNKS_PER_THREAD = min(4, os.cpu_count() or 1), 128
"""Most threads, and how much each must have to do. Ciphers and numpy let other threads run meanwhile."""


START = bytes(16)
"""The counter at the beginning of every mask; of ChaCha20 its last 12 bytes are the nonce."""


def _aes_ctr(key: bytes, counter: bytes = START) -> CipherContext:
    return Cipher(algorithms.AES256(key), modes.CTR(counter)).encryptor()


def _chacha20(key: bytes, counter: bytes = START) -> CipherContext:
    return Cipher(algorithms.ChaCha20(key, counter), None).encryptor()


CIPHERS: Mapping[str, Callable[..., CipherContext]] = MappingProxyType({"aes-256-ctr": _aes_ctr, "chacha20": _chacha20})
"""The choices of a manifest's `cipher`: AES-256 in counter mode (NIST SP 800-38A), or ChaCha20 (RFC 8439) where a
processor has no instructions for AES."""

COUNTERS: Mapping[str, Callable[[int], bytes]] = MappingProxyType(
    {
        "aes-256-ctr": lambda offset: (offset // 16).to_bytes(16, "big"),
        "chacha20": lambda offset: (offset // 64).to_bytes(4, "little") + bytes(12),
    }
)
"""The counter at a byte of a key stream."""


def add_mask(vector: Words, key: bytes, cipher: str, *, subtract: bool = False) -> None:
    """Add the key stream of a key to a vector, in place and modulo its words; or subtract it."""
    add_masks(vector, [(key, subtract)], cipher)


def add_masks(vector: Words, keys: Iterable[tuple[bytes, bool]], cipher: str) -> None:
    """Add the key streams of keys, or subtract those with True: in one pass, and in a few threads where it is long.

    A thread has a region of the vector, and begins the streams there: their bytes follow from their place alone.
    """
    keys, chunks = list(keys), -(-vector.nbytes // CHUNK)
    threads = min(THREADS, max(1, chunks * len(keys) // CHUNKS_PER_THREAD))
    length = -(-chunks // threads) * CHUNK // vector.itemsize
    starts = range(0, vector.size, max(1, length))
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(_add, vector[s : s + length], keys, cipher, s * vector.itemsize) for s in starts]:
            done.result()


def _add(vector: Words, keys: Iterable[tuple[bytes, bool]], cipher: str, offset: int) -> None:
    """Add the part of key streams that begins at a byte, a multiple of CHUNK: while a chunk is in the cache, all."""
    counter = COUNTERS[cipher](offset)
    streams = [(CIPHERS[cipher](key, counter), np.subtract if subtract else np.add) for key, subtract in keys]
    buffer = bytearray(CHUNK + 16)  # some ciphers may write a block more
    mask = np.frombuffer(buffer, vector.dtype, CHUNK // vector.itemsize)
    for start in range(0, vector.size, mask.size):
        part = vector[start : start + mask.size]
        zeros, masks = ZEROS[: part.nbytes], mask[: part.size]
        for stream, combine in streams:
            stream.update_into(zeros, buffer)
            combine(part, masks, out=part)
