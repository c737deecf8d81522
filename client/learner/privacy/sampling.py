"""Units and batches: whose prompts belong together, and which units a step takes.

The scheme is the accountant's: each unit is in each step with the same probability, independently of all others
(Poisson sampling). A batch has no fixed size, and may be empty.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Sequence

import numpy as np

from ..data.problems import Problem
from .randomness import RandomBytes, below

Unit = tuple[int, ...]
"""The indices of the prompts of one unit in the shard."""
Choice = Callable[[Unit, int], list[int]]
SYSTEM = secrets.SystemRandom()


def units_of(problems: Sequence[Problem]) -> list[Unit]:
    """Return the units of a shard: prompts of the same `unit`, or else of the same question, belong together."""
    members: dict[tuple[bool, str], list[int]] = {}
    for index, problem in enumerate(problems):
        members.setdefault((bool(problem.unit), problem.unit or problem.question), []).append(index)
    return [tuple(each) for each in members.values()]


def rate_of(units: int, expected: int) -> float:
    """Return the probability with which a step takes each unit, so that it takes `expected` of them on average."""
    return min(1.0, expected / units)


def poisson_batches(units: int, rate: float, steps: int, source: RandomBytes = os.urandom) -> list[list[int]]:
    """Return the numbers of the units that each step takes."""
    return [np.flatnonzero(below(rate, units, source)).tolist() for _ in range(steps)]


def prompts_of(unit: Unit, most: int, choose: Choice = SYSTEM.sample) -> list[int]:
    """Return the prompts of a unit that a step uses: all, or `most` of them chosen at random."""
    return list(unit) if len(unit) <= most else choose(unit, most)
