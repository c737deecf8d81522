"""Noise that hides an organisation: each member's share of a discrete Gaussian on the sum of all updates.

Shares are made so that the noise of `threshold` members already has the target variance (Kairouz et al. 2021,
arXiv:2102.06387, distributed discrete Gaussian): whoever drops out, as far as secure aggregation tolerates it, takes
nothing from it. A sum of discrete Gaussians is not exactly one; where a share has a standard deviation of at least 4
steps of the grid, epsilon differs by less than 1e-60 (theorem 1 there), and smaller ones are refused.
"""

from __future__ import annotations

import math
import os

import numpy as np

from ....common.errors import ConfigError
from .randomness import RandomBytes, below_each, geometrics

LEAST_SHARE = 4.0
"""Smallest standard deviation of a share, in steps of the grid."""


def noise_for_sum(size: int, sigma: float, threshold: int, source: RandomBytes = os.urandom) -> np.ndarray:
    """Return one member's share of the noise on a sum, in steps of the grid (int64).

    Args:
        size: numbers of the update.
        sigma: standard deviation of the noise that the sum needs, in steps of the grid.
        threshold: members of which the noise must suffice: the fewest that may be in the sum.

    Raises:
        ConfigError: the grid is too coarse for it.
    """
    share = sigma / math.sqrt(threshold)
    if share < LEAST_SHARE:
        raise ConfigError(
            f"The noise of one of {threshold} members would have a standard deviation of {share:g} steps of the grid, "
            f"but must have {LEAST_SHARE:g} to be distributed as it is accounted for. Use more noise or a finer grid."
        )
    return discrete_gaussians(size, share, source)


def discrete_gaussians(count: int, sigma: float, source: RandomBytes = os.urandom) -> np.ndarray:
    """Return `count` whole numbers x with probability in proportion to exp(-x^2 / (2 sigma^2)).

    Discrete Laplace numbers are proposed and accepted with the ratio of the two (Canonne, Kamath and Steinke 2020,
    arXiv:2004.00010, algorithm 3); about two in three are.
    """
    scale, found, missing = math.floor(sigma) + 1, [np.zeros(0, dtype=np.int64)], count
    while missing:
        proposed = _discrete_laplaces(2 * missing + 16, scale, source)
        odds = np.exp(-((np.abs(proposed) - sigma**2 / scale) ** 2) / (2 * sigma**2))
        taken = proposed[below_each(odds, source)][:missing]
        found.append(taken)
        missing -= len(taken)
    return np.concatenate(found)


def _discrete_laplaces(count: int, scale: float, source: RandomBytes) -> np.ndarray:
    """Return differences of two geometric numbers, which have a probability in proportion to exp(-|x| / scale)."""
    two = geometrics(2 * count, -math.expm1(-1 / scale), source)
    return two[:count] - two[count:]
