"""Epsilon of private training, by the privacy loss distribution of the Poisson-sampled Gaussian mechanism.

The numbers are those of Google's dp-accounting (`PLDAccountant`), whose upper bound is about 15 % tighter than Renyi
accounting. Neighbouring data sets differ by one unit, which is there or not.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

from ....common.errors import ConfigError

NAME = "dp-accounting PLD"
FINE, COARSE = 1e-4, 1e-2
"""Steps of the privacy loss at which distributions are computed: dp-accounting's own, and one that needs a hundredth of
the memory. Either gives an upper bound."""
HIGH = 50.0
"""An epsilon from which on the coarse bound is good enough: it protects nothing."""


@dataclass(frozen=True, slots=True, order=True)
class Mechanism:
    """One step of private training: a Gaussian on the sum over a Poisson sample."""

    noise_multiplier: float
    """Standard deviation of the noise, in units of the clip norm."""
    rate: float
    """Probability with which the step takes each unit."""


def epsilon(steps: Iterable[tuple[Mechanism, int]], delta: float) -> float:
    """Return the epsilon of some mechanisms in turn, each as often as its number says; infinite without noise.

    Raises:
        ConfigError: dp-accounting is not installed.
    """
    counts: Counter[Mechanism] = Counter()
    for mechanism, count in steps:
        counts[mechanism] += count
    parts = tuple(sorted((m, count) for m, count in counts.items() if count and m.rate > 0))
    if any(mechanism.noise_multiplier <= 0 for mechanism, _ in parts):
        return math.inf
    if not parts:
        return 0.0
    coarse = _composed(parts, delta, COARSE)
    return coarse if coarse >= HIGH else _composed(parts, delta, FINE)


def require_accountant() -> None:
    """Refuse to begin where the accountant is not installed.

    Raises:
        ConfigError: names the extra.
    """
    _library()


@lru_cache(maxsize=256)
def _composed(parts: tuple[tuple[Mechanism, int], ...], delta: float, interval: float) -> float:
    (first, count), *others = parts
    total = _of_a_step(first, interval).self_compose(count)
    for mechanism, count in others:
        total = total.compose(_of_a_step(mechanism, interval).self_compose(count))
    return float(total.get_epsilon_for_delta(delta))


@lru_cache(maxsize=16)
def _of_a_step(mechanism: Mechanism, interval: float) -> Any:
    """Return the privacy loss distribution of one step, which takes half a second to compute."""
    return _library().from_gaussian_mechanism(
        mechanism.noise_multiplier, sampling_prob=mechanism.rate, value_discretization_interval=interval
    )


def _library() -> ModuleType:
    try:
        from dp_accounting.pld import privacy_loss_distribution
    except ImportError as error:
        raise ConfigError(
            f"dp.noise-multiplier is above 0, which needs dp-accounting, and that is not installed here ({error}). "
            "Install it where the learner runs: pip install 'fedgrpo[dp]'."
        ) from error
    return privacy_loss_distribution
