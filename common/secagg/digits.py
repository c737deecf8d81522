"""Numbers beside the update in the masked vector: counts, weights and metrics, as digits whose sums do not carry.

A number is fixed-point with 20 bits after the point, moved up so that it is not negative, and written in base 256. The
sum of some members' digits is the digits of the sum, whatever the word is: 100 members add up to at most 25,500.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..errors import ProtocolError
from .grid import Whole

SCALE = 1 << 20
BASE, DIGITS = 256, 8
OFFSET = 1 << 62
"""Moves numbers from -2^42 to 2^42 up."""
LIMIT = float(1 << 42)


def to_digits(numbers: Sequence[float]) -> Whole:
    """Return numbers as DIGITS digits each, the lowest first.

    Raises:
        ProtocolError: a number is not finite, or beyond LIMIT.
    """
    digits: list[int] = []
    for number in numbers:
        if not (math.isfinite(number) and abs(number) < LIMIT):
            raise ProtocolError("secagg.number", f"{number} cannot be part of a sum: it must be below {LIMIT:g}")
        whole = round(number * SCALE) + OFFSET
        digits += [(whole >> (8 * place)) & (BASE - 1) for place in range(DIGITS)]
    return np.array(digits, dtype=np.int64)


def from_digits(digits: Whole, members: int) -> list[float]:
    """Return the sums of numbers from the sums of their digits over some members.

    Raises:
        ProtocolError: a sum of digits is not one of so many digits.
    """
    if digits.size and not (int(digits.min()) >= 0 and int(digits.max()) <= members * (BASE - 1)):
        raise ProtocolError("secagg.sum", f"the sum of {members} members' digits holds something that is not one")
    rows = digits.reshape(-1, DIGITS)
    wholes = [sum(int(digit) << (8 * place) for place, digit in enumerate(row)) - members * OFFSET for row in rows]
    return [whole / SCALE for whole in wholes]
