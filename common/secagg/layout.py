"""The masked vector: the coded update, then the numbers beside it, as digits.

Weights, counts and metrics are part of the sum, so that an organisation's size and rewards are hidden with its update.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from ..messages.messages import Tally, Words
from .digits import BASE, DIGITS, from_digits, to_digits
from .grid import Grid, Whole

WEIGHT, CLIPPED, BEYOND = "weight", "clipped", "beyond"
"""A member's weight, from 0 to 1; 1 if its update was longer than privacy.clip-norm; and how many of its numbers were
beyond the grid's end."""
EVALUATION_NUMBERS = tuple(f.name for f in fields(Tally))


def training_numbers(metrics: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the numbers beside an update: those of the sum itself, then the metrics."""
    return (WEIGHT, CLIPPED, BEYOND, *metrics)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What is where in a masked vector."""

    coordinates: int
    """Numbers of the update; 0 for an evaluation."""
    numbers: tuple[str, ...]
    """Names of the numbers beside it."""
    grid: Grid

    @property
    def size(self) -> int:
        """Return the length of the masked vector."""
        return self.coordinates + DIGITS * len(self.numbers)

    def words(self, update: Whole, numbers: Mapping[str, float]) -> Words:
        """Return the vector of one member.

        Raises:
            ProtocolError: a number is not finite, or too large to be added up.
        """
        beside = to_digits([numbers[name] for name in self.numbers])
        return self.grid.words(np.concatenate([update, beside]))

    def opened(self, total: Words, members: int) -> tuple[npt.NDArray[np.float64], dict[str, float]]:
        """Return the sum of the updates (float64), and those of the numbers by name.

        Args:
            total: the sum of some members' vectors modulo the grid's words.
            members: how many are in it.

        Raises:
            ProtocolError: the sum is not one that so many members can have.
        """
        updates = self.grid.signed(total[: self.coordinates], members)
        digits = self.grid.signed(total[self.coordinates :], members, BASE - 1)
        beside = dict(zip(self.numbers, from_digits(digits, members), strict=True))
        return self.grid.values(updates), beside
