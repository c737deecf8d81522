"""Paired differences of two arms over seeds and problems, with intervals. Pure functions of numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Outcomes = npt.NDArray[np.float64]
"""Shape (seeds, problems): 1 for a correct answer, 0 for a wrong one, between them for an average of several."""

Values = npt.NDArray[np.float64]

DRAWS = 10_000
DRAWS_AT_ONCE = 1_000
LEVEL = 0.95
GENERATOR_SEED = 20210831
T975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
)  # fmt: skip
"""97.5 % quantiles of Student's t with 1, 2, ... 20 degrees of freedom."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The difference between one arm and another; shares, not percentage points."""

    mean: float
    low: float
    high: float
    by_seed: tuple[float, ...]

    @property
    def found(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def paired_difference(arm: Outcomes, baseline: Outcomes) -> Difference:
    """Return the mean difference of two arms, with its 95 % interval (`interval_over_seeds`).

    Swapping the arms mirrors the interval.

    Args:
        arm: one row per seed, one column per held-out problem.
        baseline: the same seeds and problems in the same order.

    Raises:
        ValueError: the shapes differ, or the arrays are empty.
    """
    if arm.shape != baseline.shape or arm.ndim != 2 or arm.size == 0:
        raise ValueError(f"outcomes of shapes {arm.shape} and {baseline.shape} cannot be paired")
    differences = arm - baseline
    low, high = interval_over_seeds(differences)
    return Difference(
        mean=float(differences.mean()),
        low=float(low),
        high=float(high),
        by_seed=tuple(differences.mean(axis=1).tolist()),
    )


def interval_over_seeds(differences: Values) -> tuple[Values, Values]:
    """Return both ends of the 95 % interval of a mean difference over seeds and problems.

    Each end is the farther one of `bootstrap_interval` and `t_interval`, since neither is enough alone. Where seeds
    differ more than problems do, the bootstrap has too few seeds to resample: it covers the truth in as few as 82 of
    100 studies. Where the effect differs by problem, t over seeds that answer the same problems covers as few as 89.
    The two together cover 95 to 100 (docs/log.md).

    With one seed there is no t-interval: the bootstrap speaks of that seed alone, and says nothing of how seeds vary.

    Args:
        differences: shape (..., S, P), S seeds and P problems; the interval is that of each (S, P).

    Returns:
        (lower ends, upper ends), each of shape (...).
    """
    low, high = bootstrap_interval(differences)
    if differences.shape[-2] == 1:
        return low, high
    t_low, t_high = t_interval(differences)
    return np.minimum(low, t_low), np.maximum(high, t_high)


def bootstrap_interval(differences: Values) -> tuple[Values, Values]:
    r"""Return the 95 % interval by the pigeonhole bootstrap (Owen 2007, doi:10.1214/07-AOAS122).

        draw:  n ~ Multinomial(S, 1/S),  m ~ Multinomial(P, 1/P),  sum_sp n[s] m[p] d[s, p] / (S P)

    From the 2.5 % to the 97.5 % quantile of 10,000 draws. Every seed answers the same problems, so one draw of problems
    serves all seeds: drawing them for each seed apart would take a problem that is hard under every seed for several
    independent ones. The generator's seed is fixed, so the same outcomes have the same interval.
    """
    low, high = np.quantile(_draws(differences), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high


def t_interval(differences: Values) -> tuple[Values, Values]:
    """Return the 95 % interval of Student's t over the seeds: mean +- t(.975, S - 1) sd / sqrt(S), S >= 2."""
    by_seed = differences.mean(axis=-1)
    seeds = by_seed.shape[-1]
    mean, half = by_seed.mean(axis=-1), t95(seeds) * by_seed.std(axis=-1, ddof=1) / seeds**0.5
    return mean - half, mean + half


def t95(count: int) -> float:
    """Return the 97.5 % quantile of Student's t for `count` >= 2 values, that is with count - 1 degrees of freedom.

    Above 21 values it is that of 21, which makes an interval a little too wide.

    >>> t95(3), t95(5)
    (4.303, 2.776)
    """
    return T975[min(count - 1, len(T975)) - 1]


def best_of(clients: npt.NDArray[np.float64]) -> Outcomes:
    """Return, for every seed, the outcomes of its best client. It is chosen on the same problems, so it is biased
    upwards.

    Args:
        clients: shape (seeds, clients, problems).
    """
    best = clients.mean(axis=2).argmax(axis=1)
    return clients[np.arange(len(clients)), best]


def worst_of(clients: npt.NDArray[np.float64]) -> Outcomes:
    """Return, for every seed, the outcomes of its worst client."""
    return 1.0 - best_of(1.0 - clients)


def _draws(differences: Values) -> Values:
    """Return the mean difference of each resampling, shape (DRAWS, ...)."""
    *_, seeds, problems = differences.shape
    rng = np.random.default_rng(GENERATOR_SEED)
    flat = differences.reshape(-1, problems).T
    draws: list[Values] = []
    for _ in range(DRAWS // DRAWS_AT_ONCE):
        times_seed = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=DRAWS_AT_ONCE)
        times_problem = rng.multinomial(problems, np.full(problems, 1 / problems), size=DRAWS_AT_ONCE)
        of_seed = (times_problem.astype(np.float64) @ flat / problems).reshape(DRAWS_AT_ONCE, -1, seeds)
        draws.append((of_seed * times_seed[:, np.newaxis]).sum(axis=2) / seeds)
    return np.concatenate(draws).reshape(-1, *differences.shape[:-2])
