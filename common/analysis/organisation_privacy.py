"""What noise on the sum of all updates hides of one organisation, and what it costs.

Each round is one Gaussian mechanism on the sum of clipped updates, without sampling. T rounds with the noise multiplier
z are one with mu = sqrt(T) / z, and (epsilon, delta) of that are known in closed form (Balle and Wang 2018,
arXiv:1805.06530, theorem 8):

    delta = Phi(mu/2 - epsilon/mu) - e^epsilon Phi(-mu/2 - epsilon/mu)

Neighbouring federations differ in what one organisation's updates were, zero for instance. That it took part is not
hidden.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from ..identity.members import threshold_of
from ..settings.run_config import RunConfig

MOST = 1e4
"""An epsilon above this is stated as infinite."""


def gaussian_epsilon(noise_multiplier: float, rounds: int, delta: float) -> float:
    """Return epsilon of so many rounds, from above by at most 1e-9 of it; infinite without noise.

    >>> round(gaussian_epsilon(4.244, 1, 1e-5), 2)
    0.87
    """
    if noise_multiplier <= 0:
        return math.inf
    mu = math.sqrt(rounds) / noise_multiplier
    low, high = 0.0, 1.0
    while high < MOST and _delta(mu, high) > delta:
        low, high = high, 2 * high
    if _delta(mu, high) > delta:
        return math.inf
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if _delta(mu, middle) <= delta else (middle, high)
    return high


def _delta(mu: float, epsilon: float) -> float:
    """Return delta at an epsilon; the second term as an exponential of logarithms, since e^epsilon overflows."""
    normal = NormalDist()
    tail = normal.cdf(-mu / 2 - epsilon / mu)
    return normal.cdf(mu / 2 - epsilon / mu) - (math.exp(epsilon + math.log(tail)) if tail > 0 else 0.0)


def noise_ratio(noise_multiplier: float, size: int, members: int, threshold: int) -> float:
    """Return the length of the noise on the mean update, in clip norms, where all members stay.

    An update is at most 1 long, and so is the mean. Each member's share of the noise is large enough for `threshold` of
    them, so all of them have more than they need.

    >>> round(noise_ratio(4.244, 4_400_000, 10, 7))
    1064
    """
    return noise_multiplier * math.sqrt(size * members / threshold) / members


def noise_price(config: RunConfig, size: int, members: int) -> str:
    """Return what a run's noise hides and costs, in words for a person before the run.

    Args:
        size: numbers of an update.
    """
    noise, rounds, delta = config.privacy.noise_multiplier, config.federation.rounds, config.privacy.delta
    epsilon, ratio = gaussian_epsilon(noise, rounds, delta), noise_ratio(noise, size, members, threshold_of(members))
    return (
        f"hides what an organisation's updates were: epsilon {epsilon:.3g} at delta {delta:g} after {rounds} rounds. "
        f"The noise on the mean update is {ratio:.2g} times privacy.clip-norm long, and the mean itself at most once"
    )
