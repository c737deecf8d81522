"""Shamir's secret sharing over a prime field (Shamir 1979, "How to share a secret").

A secret s is the constant term of a random polynomial of degree t - 1; share i is its value at x = i. Any t shares give
s by Lagrange interpolation at 0, and fewer than t say nothing about it.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

from ..errors import ProtocolError

PRIME = (1 << 256) + 297
"""The smallest prime above 2^256: every secret of 32 bytes is an element of the field."""
SECRET_BYTES, SHARE_BYTES = 32, 33


def split(secret: bytes, threshold: int, members: int) -> list[bytes]:
    """Return the shares of a secret of SECRET_BYTES, of SHARE_BYTES each, for the members at x = 1, 2, ...

    Raises:
        ProtocolError: the threshold is not from 1 to the number of members.
    """
    if not 1 <= threshold <= members or len(secret) != SECRET_BYTES:
        raise ProtocolError("secagg.shares", f"a threshold of {threshold} of {members} members cannot be shared")
    shares = points(int.from_bytes(secret, "big"), threshold, range(1, members + 1), PRIME)
    return [share.to_bytes(SHARE_BYTES, "big") for share in shares]


def points(secret: int, threshold: int, places: Sequence[int], prime: int) -> list[int]:
    """Return the values of a random polynomial of degree `threshold` - 1, whose value at 0 is the secret."""
    coefficients = [secret, *(secrets.randbelow(prime) for _ in range(threshold - 1))]
    values: list[int] = []
    for place in places:
        value = 0
        for coefficient in reversed(coefficients):  # Horner's rule
            value = (value * place + coefficient) % prime
        values.append(value)
    return values


def lagrange_at_zero(places: Sequence[int], prime: int = PRIME) -> list[int]:
    """Return the coefficients l_i with f(0) = sum_i l_i f(x_i) for every polynomial of degree below len(places)."""
    coefficients: list[int] = []
    for place in places:
        numerator = denominator = 1
        for other in places:
            if other != place:
                numerator = numerator * other % prime
                denominator = denominator * (other - place) % prime
        coefficients.append(numerator * pow(denominator, -1, prime) % prime)
    return coefficients


def join(shares: Mapping[int, bytes], coefficients: Sequence[int]) -> bytes:
    """Return the secret of which these are shares, by their places.

    Args:
        coefficients: `lagrange_at_zero` of the places, in their order; many secrets have the same.

    Raises:
        ProtocolError: they are not shares of a secret of SECRET_BYTES.
    """
    values = [int.from_bytes(share, "big") for share in shares.values()]
    total = sum(c * value for c, value in zip(coefficients, values, strict=True)) % PRIME
    if total >> (8 * SECRET_BYTES):
        raise ProtocolError("secagg.shares", "the shares do not belong to one secret")
    return total.to_bytes(SECRET_BYTES, "big")
