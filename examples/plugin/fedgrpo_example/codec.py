"""A codec: the sign of each number and one size for all, a bit per number (signSGD with error feedback, Karimireddy et
al. 2019, arXiv:1901.09847).
"""

import math

import numpy as np
from fedgrpo.common.adapter.compression import UP, Codec

ZERO, LOWEST, HIGHEST = -128, -120, 120
"""The exponent that stands for a vector of zeros, and the range of the others."""


def round_to_signs(vector, top_share, generator):
    """Return +-2^e, with 2^e near the mean magnitude. A power of two: rounding what was rounded changes nothing."""
    exponent = _exponent(float(np.abs(vector).mean(dtype=np.float64)) if vector.size else 0.0)
    if exponent == ZERO:
        return np.zeros_like(vector)
    return np.where(vector < 0, -1, 1).astype(np.float32) * np.float32(2.0**exponent)


def pack(vector):
    """Return the exponent in one byte, and the signs in bits."""
    exponent = _exponent(float(np.abs(vector).max(initial=0.0)))
    return exponent.to_bytes(1, signed=True) + np.packbits(vector < 0).tobytes()


def unpack(data, size):
    """Read what `pack` wrote. The bytes may be hostile: a ValueError refuses that one message."""
    if len(data) != most_bytes(size, 1.0):
        raise ValueError(f"{len(data)} bytes, not {most_bytes(size, 1.0)}")
    exponent = int.from_bytes(data[:1], signed=True)
    negative = np.unpackbits(np.frombuffer(data, np.uint8, offset=1), count=size)
    if exponent == ZERO:
        return np.zeros(size, np.float32)
    if not LOWEST <= exponent <= HIGHEST:
        raise ValueError(f"the exponent is {exponent}")
    return np.where(negative, -1, 1).astype(np.float32) * np.float32(2.0**exponent)


def most_bytes(size, top_share):
    """Return the bytes of a packed vector."""
    return 1 + math.ceil(size / 8)


def _exponent(magnitude):
    if magnitude == 0:
        return ZERO
    return min(HIGHEST, max(LOWEST, round(math.log2(magnitude))))


SIGN = Codec(
    round=round_to_signs,
    pack=pack,
    unpack=unpack,
    max_bytes=most_bytes,
    exact=True,  # as many bytes whatever the numbers are
    ways=(UP,),  # for updates; a global adapter of signs would be useless
    needs_feedback=True,  # without error feedback small numbers would never count
    summary="sign of each number, one magnitude for all",
)
