"""Binomial tails and the exact interval of a share, without scipy."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]

HALVINGS = 45


def probabilities(count: int, share: float) -> Values:
    """Return P[Binomial(count, share) = k] for k = 0, 1, ... count."""
    k = np.arange(count + 1)
    if share <= 0.0 or share >= 1.0:
        return (k == (count if share >= 1.0 else 0)).astype(np.float64)
    return np.exp(_log_choose(count) + k * np.log(share) + (count - k) * np.log1p(-share))


def at_least(count: int, successes: int, share: float) -> float:
    """Return P[Binomial(count, share) >= successes].

    >>> round(at_least(10, 9, 0.5) * 1024, 9)
    11.0
    """
    return float(min(1.0, probabilities(count, share)[max(0, successes) :].sum()))


def exact_low(successes: int, count: int, error: float) -> float:
    """Return the lower bound of a share that is wrong at most `error` of the time (Clopper and Pearson 1934).

    It is the share at which P[Binomial(count, share) >= successes] = error; 0 without a success.
    """
    if successes == 0:
        return 0.0
    return crossing(lambda share: at_least(count, successes, share), error, 0.0, 1.0)


def exact_high(successes: int, count: int, error: float) -> float:
    """Return the upper bound of a share that is wrong at most `error` of the time.

    >>> round(exact_high(0, 10, 0.05), 4)
    0.2589
    """
    return 1.0 - exact_low(count - successes, count, error)


def tails(count: int, share: float) -> Values:
    """Return P[Binomial(count, share) >= k] for k = 0, 1, ... count."""
    return np.minimum(1.0, np.cumsum(probabilities(count, share)[::-1])[::-1])


def crossing(rising: Callable[[float], float], level: float, low: float, high: float) -> float:
    """Return the largest x found in [low, high] with rising(x) < level, by halving the interval."""
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < level else (low, middle)
    return low


@lru_cache(maxsize=64)
def _log_choose(count: int) -> Values:
    log_factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])
    return log_factorials[count] - log_factorials - log_factorials[::-1]
