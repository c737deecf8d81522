"""One encoding of what is signed or hashed, which no two different values share.

Every part begins with its kind and its length, so that where one ends is never a matter of what is in it:

    text     s  bytes in UTF-8   the bytes
    bytes    b  bytes            the bytes
    integer  i  digits           decimal, as Python writes it
    tuple    t  parts            the parts, encoded

A length is 8 bytes, most significant first. What is encoded begins with a context, a text that says what it is for:
a signature of one thing is then never one of another.
"""

from __future__ import annotations

Part = str | bytes | int | tuple["Part", ...]


def encode(context: str, *parts: Part) -> bytes:
    """Return the encoding of `parts` in a context.

    >>> encode("x", 7).hex(" ", 8)
    '74000000 0000000002730000 0000000000017869 0000000000000001 37'

    Raises:
        TypeError: a part is of another type. A bool is refused too, since it is equal to an integer.
    """
    return _encoded((context, *parts))


def _encoded(part: Part) -> bytes:
    if isinstance(part, tuple):
        return _framed(b"t", len(part), b"".join(_encoded(each) for each in part))
    if isinstance(part, bytes):
        return _framed(b"b", len(part), part)
    if isinstance(part, str):
        data = part.encode()
        return _framed(b"s", len(data), data)
    if type(part) is int:
        data = str(part).encode()
        return _framed(b"i", len(data), data)
    raise TypeError(f"{type(part).__name__} has no encoding")


def _framed(kind: bytes, length: int, data: bytes) -> bytes:
    return kind + length.to_bytes(8, "big") + data
