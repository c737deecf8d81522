"""Numbers with fewer bits: rounding onto a grid, and the bytes of what lies on it.

Rounding and packing are two things. `rounded` loses something, and whoever rounds keeps account of it; `packed` and
`unpacked` lose nothing. So what is on the disk, in the sum and on the wire is one and the same float32 vector.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..errors import ProtocolError
from ..plugins import Table
from .number_formats import (
    BLOCK,
    INT4,
    INT8,
    expect,
    most_deflated,
    pack_bf16,
    pack_blocks,
    pack_fp32,
    pack_sparse,
    round_bf16,
    round_blocks,
    round_sparse,
    unpack_bf16,
    unpack_blocks,
    unpack_fp32,
    unpack_sparse,
    unrounded,
)
from .schema import Vector

UP, DOWN = "up", "down"


@dataclass(frozen=True, slots=True, kw_only=True)
class Codec:
    """One way to round a vector and to write what was rounded as bytes. Rounding what was rounded changes nothing."""

    round: Callable[[Vector, float, np.random.Generator | None], Vector]
    """(finite float32 (n,), `compression.top-share`, generator) -> the same on the grid, without -0. With a generator
    rounded at random, right on average, where the codec can."""
    pack: Callable[[Vector], bytes]
    """The bytes of a vector that lies on the grid."""
    unpack: Callable[[bytes, int], Vector]
    """(bytes, n) -> float32 (n,). The bytes may be hostile: it raises a ProtocolError or a ValueError where they are
    not those of such a vector, and takes no more memory than n allows."""
    max_bytes: Callable[[int, float], int]
    """(n, `compression.top-share`) -> the most bytes of a packed vector."""
    exact: bool = False
    """Whether a vector always takes `max_bytes`, whatever its numbers."""
    in_blocks: bool = False
    """Whether neighbours share what they are rounded by, so that an adapter cannot be cut to a smaller rank."""
    ways: tuple[str, ...] = (UP, DOWN)
    """Which of `compression.up` and `compression.down` may name it."""
    needs_feedback: bool = False
    """Whether rounding is not right on average, not even at random: then some numbers would never be sent without
    `compression.error-feedback`."""
    summary: str
    """One line for people."""


def rounded(
    vector: Vector, codec: str, *, top_share: float = 1.0, generator: np.random.Generator | None = None
) -> Vector:
    """The vector on the codec's grid: to the nearest, or with a generator at random to one of the two neighbours, right
    on average (Alistarh et al. 2017, arXiv:1610.02132).

    Args:
        vector: finite float32, shape (n,).
        top_share: share of the numbers that `top-k` keeps, the largest by magnitude; the others become 0.
    """
    return CODECS[codec].round(vector, top_share, generator)


def packed(vector: Vector, codec: str) -> bytes:
    """The bytes of a vector that lies on the codec's grid.

    Raises:
        ValueError: it does not.
    """
    data = CODECS[codec].pack(vector)
    if codec != "fp32" and (unpacked(data, vector.size, codec) != vector).any():
        raise ValueError(f"the vector was not rounded to {codec} before it was packed")
    return data


def unpacked(data: bytes, size: int, codec: str) -> Vector:
    """The vector of some bytes: what `packed` was given. Takes no more memory than `size` allows, whatever they are.

    Raises:
        ProtocolError: they are not the bytes of a vector of this size.
    """
    if codec not in CODECS:
        raise ProtocolError("array-type", f"there is no codec {codec[:20]!r}")
    try:
        vector = CODECS[codec].unpack(data, size)
    except (ValueError, zlib.error) as error:
        raise ProtocolError("array-bytes", f"the packed array is damaged: {error}") from error
    expect(vector.dtype == np.float32 and vector.shape == (size,), f"it is not float32 of shape ({size},)")
    return vector


def most_bytes(size: int, codec: str, top_share: float = 1.0) -> int:
    """No `packed` vector of this size has more bytes."""
    return CODECS[codec].max_bytes(size, top_share)


def is_exact(codec: str) -> bool:
    """Whether a codec's bytes do not depend on the numbers."""
    return CODECS[codec].exact


def _blocks_codec(levels: int, bits: int, summary: str) -> Codec:
    return Codec(
        round=lambda vector, top_share, generator: round_blocks(vector, levels, generator),
        pack=lambda vector: pack_blocks(vector, levels),
        unpack=lambda data, size: unpack_blocks(data, size, levels),
        max_bytes=lambda size, top_share: most_deflated(size * bits // 8 + BLOCK + math.ceil(size / BLOCK)),
        in_blocks=True,
        summary=summary,
    )


def _complaint(entry: object) -> str:
    return "" if isinstance(entry, Codec) else "is not a fedgrpo.common.adapter.compression.Codec"


CODECS: Table[Codec] = Table(
    "fedgrpo.codecs",
    {
        "fp32": Codec(
            round=unrounded,
            pack=pack_fp32,
            unpack=unpack_fp32,
            max_bytes=lambda size, top_share: 4 * size,
            exact=True,
            summary="float32, not rounded",
        ),
        "bf16": Codec(
            round=round_bf16,
            pack=pack_bf16,
            unpack=unpack_bf16,
            max_bytes=lambda size, top_share: 2 * size,
            exact=True,
            summary="bfloat16: 8 bits of precision",
        ),
        "int8": _blocks_codec(INT8, 8, "whole numbers to 127; blocks of 32 share an exponent"),
        "int4": _blocks_codec(INT4, 4, "whole numbers to 7; blocks of 32 share an exponent"),
        "top-k": Codec(
            round=round_sparse,
            pack=pack_sparse,
            unpack=unpack_sparse,
            max_bytes=lambda size, top_share: most_deflated(6 * math.ceil(top_share * size)),
            ways=(UP,),
            needs_feedback=True,
            summary="the largest numbers by magnitude, as bfloat16 with their places",
        ),
    },
    _complaint,
)
"""The choices of `compression.up` and `compression.down`."""
