"""Random numbers from the operating system, for all that privacy rests on: never from a seed, which others know."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

RandomBytes = Callable[[int], bytes]
SUMMED = 4
"""Gaussians of which each noise value is made: their sum hides the gaps that floating-point arithmetic leaves in a
single one, by which noise can be told from what it was added to (Mironov 2012; Holohan and Braghin 2021,
arXiv:2107.10138)."""


def below(rate: float, count: int, source: RandomBytes = os.urandom) -> np.ndarray:
    """Return `count` independent booleans, each true with probability `rate`, exact to 2^-64."""
    if rate >= 1:
        return np.ones(count, dtype=bool)
    return _words(count, source) < np.uint64(int(rate * 2**64))


def below_each(rates: np.ndarray, source: RandomBytes = os.urandom) -> np.ndarray:
    """Return independent booleans, each true with the probability at its place in `rates`, to 2^-53."""
    return _uniforms(len(rates), source) < rates


def geometrics(count: int, rate: float, source: RandomBytes = os.urandom) -> np.ndarray:
    """Return `count` independent numbers of failures before the first success of probability `rate`, int64."""
    return np.floor(np.log(_uniforms(count, source)) / np.log1p(-rate)).astype(np.int64)


def standard_normals(count: int, source: RandomBytes = os.urandom) -> np.ndarray:
    """Return `count` independent standard normal numbers, float64 (Box and Muller 1958, each of SUMMED summed)."""
    total = np.zeros(count)
    for _ in range(SUMMED):
        total += _box_muller(count, source)
    return total / np.sqrt(SUMMED)


def _box_muller(count: int, source: RandomBytes) -> np.ndarray:
    pairs = (count + 1) // 2
    first, second = _uniforms(2 * pairs, source).reshape(2, pairs)
    radius, angle = np.sqrt(-2 * np.log(first)), 2 * np.pi * second
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]


def _uniforms(count: int, source: RandomBytes) -> np.ndarray:
    """Return numbers in (0, 1), both ends excluded, so that their logarithms are finite."""
    return ((_words(count, source) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def _words(count: int, source: RandomBytes) -> np.ndarray:
    return np.frombuffer(source(8 * count), dtype="<u8")
