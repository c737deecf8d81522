"""The codecs' arithmetic: rounding onto a grid, and the bytes of what lies on it. Their table is in `compression.py`.

`int8` and `int4` are block floating point (OCP Microscaling Formats 1.0; Rouhani et al. 2023, arXiv:2310.10537): 32
numbers share a power of two, each is a whole number of it, of magnitude at most 127 or 7. Powers of two keep every
value exact in float32, and rounding what was rounded changes nothing. The bytes are Huffman-coded (DEFLATE).
"""

from __future__ import annotations

import math
import zlib

import numpy as np
import numpy.typing as npt

from ..errors import ProtocolError
from .schema import Vector

BLOCK = 32
INT8, INT4 = 127, 7
"""Largest magnitude of a whole number."""
LOWEST_EXPONENT, HIGHEST_EXPONENT = -120, 121


def unrounded(vector: Vector, top_share: float, generator: np.random.Generator | None) -> Vector:
    """Return the vector as it is."""
    return vector


def pack_fp32(vector: Vector) -> bytes:
    """Write little-endian float32."""
    return vector.astype("<f4", copy=False).tobytes()


def unpack_fp32(data: bytes, size: int) -> Vector:
    """Read what `pack_fp32` wrote."""
    expect(len(data) == 4 * size, f"{len(data)} bytes, not {4 * size}")
    return np.frombuffer(data, dtype="<f4").astype(np.float32, copy=False)


def round_bf16(vector: Vector, top_share: float, generator: np.random.Generator | None) -> Vector:
    """Round to 8 bits of precision."""
    return _to_bf16(vector, generator) + np.float32(0)  # no -0, which packing would not keep


def pack_bf16(vector: Vector) -> bytes:
    """Write the upper half of each number."""
    return _bf16_halves(vector).tobytes()


def unpack_bf16(data: bytes, size: int) -> Vector:
    """Read what `pack_bf16` wrote."""
    expect(len(data) == 2 * size, f"{len(data)} bytes, not {2 * size}")
    return (np.frombuffer(data, dtype="<u2").astype(np.uint32) << 16).view(np.float32)


def round_sparse(vector: Vector, top_share: float, generator: np.random.Generator | None) -> Vector:
    """Keep a share of the numbers, the largest by magnitude, as bfloat16; the others become 0."""
    kept = np.zeros_like(vector)
    chosen = _largest(vector, top_share)
    kept[chosen] = _to_bf16(vector[chosen], None)
    return kept + np.float32(0)


def round_blocks(vector: Vector, levels: int, generator: np.random.Generator | None) -> Vector:
    """Round each block of 32 to whole numbers, of magnitude at most `levels`, of a shared power of two."""
    blocks = _blocks(vector)
    exponents = _exponents(blocks, levels)
    scaled = np.ldexp(blocks.astype(np.float64), -exponents[:, None])
    whole = np.rint(scaled) if generator is None else np.floor(scaled + generator.random(scaled.shape))
    return np.ldexp(whole + 0.0, exponents[:, None]).astype(np.float32).reshape(-1)[: vector.size]


def most_deflated(raw: int) -> int:
    """The most bytes of `raw` bytes after DEFLATE."""
    return raw + raw // 1000 + 64


def _blocks(vector: Vector) -> Vector:
    """Shape (blocks, BLOCK), padded with zeros."""
    return np.pad(vector, (0, -vector.size % BLOCK)).reshape(-1, BLOCK)


def _exponents(blocks: Vector, levels: int) -> npt.NDArray[np.int32]:
    """Per block the smallest e with max |x| <= levels * 2^e; the lowest for a block of zeros."""
    largest: npt.NDArray[np.float64] = np.abs(blocks).max(axis=1).astype(np.float64)
    mantissa, exponent = np.frexp(largest / levels)
    above = exponent - (mantissa == 0.5)  # a power of two is its own
    return np.where(largest > 0, np.clip(above, LOWEST_EXPONENT, HIGHEST_EXPONENT), LOWEST_EXPONENT).astype(np.int32)


def pack_blocks(vector: Vector, levels: int) -> bytes:
    """Write the blocks' exponents, then the whole numbers, in a byte or in half of one."""
    blocks = _blocks(vector)
    exponents = _exponents(blocks, levels)
    whole = np.ldexp(blocks.astype(np.float64), -exponents[:, None]).astype(np.int8).reshape(-1)
    if levels == INT4:
        nibbles = (whole & 15).astype(np.uint8)
        numbers = (nibbles[0::2] | nibbles[1::2] << 4).tobytes()
    else:
        numbers = whole.tobytes()
    return _deflated(exponents.astype(np.int8).tobytes() + numbers)


def unpack_blocks(data: bytes, size: int, levels: int) -> Vector:
    """Read what `pack_blocks` wrote."""
    count = math.ceil(size / BLOCK)
    per_block = BLOCK // 2 if levels == INT4 else BLOCK
    raw = np.frombuffer(_inflated(data, count * (1 + per_block)), dtype=np.int8)
    exponents, numbers = raw[:count].astype(np.int32), raw[count:]
    if levels == INT4:
        pairs = np.stack([numbers << 4 >> 4, numbers >> 4], axis=-1)  # arithmetic shifts keep the sign
        numbers = pairs.reshape(-1)
    expect(bool((np.abs(numbers.astype(np.int16)) <= levels).all()), "a number outside its levels")
    expect(bool(((exponents >= LOWEST_EXPONENT) & (exponents <= HIGHEST_EXPONENT)).all()), "an exponent out of range")
    values = np.ldexp(numbers.reshape(-1, BLOCK).astype(np.float32), exponents[:, None])
    return values.reshape(-1)[:size].astype(np.float32)


def pack_sparse(vector: Vector) -> bytes:
    """Number of values, gaps between their places, and the values, each by planes of bytes: like stands beside like."""
    places = np.flatnonzero(vector)
    gaps = np.diff(places, prepend=-1).astype("<u4")
    planes = [gaps.view(np.uint8).reshape(-1, 4).T, _bf16_halves(vector[places]).view(np.uint8).reshape(-1, 2).T]
    return len(places).to_bytes(4, "little") + _deflated(b"".join(np.ascontiguousarray(p).tobytes() for p in planes))


def unpack_sparse(data: bytes, size: int) -> Vector:
    """Read what `pack_sparse` wrote."""
    count = int.from_bytes(data[:4], "little")
    expect(len(data) >= 4 and count <= size, f"{count} values of {size}")
    raw = np.frombuffer(_inflated(data[4:], 6 * count), dtype=np.uint8)
    gaps = np.ascontiguousarray(raw[: 4 * count].reshape(4, count).T).view("<u4").reshape(-1)
    halves = np.ascontiguousarray(raw[4 * count :].reshape(2, count).T).view("<u2").reshape(-1)
    expect(bool((gaps > 0).all()), "two values in one place")
    places = np.cumsum(gaps, dtype=np.int64) - 1
    expect(not count or bool(places[-1] < size), "a place outside the vector")
    vector = np.zeros(size, dtype=np.float32)
    vector[places] = (halves.astype(np.uint32) << 16).view(np.float32)
    return vector


def _to_bf16(vector: Vector, generator: np.random.Generator | None) -> Vector:
    """To the nearest number with 8 bits of precision, ties to even; never to infinity."""
    bits = np.minimum(np.abs(vector), np.float32(3.3895314e38)).view(np.uint32)
    if generator is None:
        added = np.uint32(0x7FFF) + (bits >> 16 & 1)
    else:
        added = generator.integers(0, 1 << 16, bits.shape, dtype=np.uint32)
    return np.copysign(((bits + added) & np.uint32(0xFFFF0000)).view(np.float32), vector)


def _bf16_halves(vector: Vector) -> npt.NDArray[np.uint16]:
    return (vector.view(np.uint32) >> 16).astype("<u2")


def _largest(vector: Vector, share: float) -> npt.NDArray[np.intp]:
    count = max(1, math.ceil(share * vector.size))
    if count >= vector.size:
        return np.arange(vector.size)
    return np.sort(np.argpartition(-np.abs(vector), count)[:count])


def _deflated(data: bytes) -> bytes:
    coder = zlib.compressobj(6, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
    return coder.compress(data) + coder.flush()


def _inflated(data: bytes, size: int) -> bytes:
    coder = zlib.decompressobj(-15)
    try:
        found = coder.decompress(data, size + 1)
    except zlib.error as error:
        raise ProtocolError("array-bytes", f"the packed array is damaged: {error}") from error
    expect(coder.eof and not coder.unused_data and len(found) == size, f"the packed array has not {size} bytes")
    return found


def expect(holds: bool, what: str) -> None:
    """Refuse bytes that are not those of a vector."""
    if not holds:
        raise ProtocolError("array-bytes", f"the packed array is damaged: {what}")
