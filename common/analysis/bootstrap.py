"""Paired differences of two arms over seeds and problems, with intervals. Pure functions of numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Outcomes = npt.NDArray[np.float64]
"""Shape (seeds, problems): 1 for a correct answer, 0 for a wrong one, between them for an average of several."""

DRAWS = 10_000
DRAWS_AT_ONCE = 1_000
LEVEL = 0.95
GENERATOR_SEED = 20210831


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
    r"""Return the mean difference of two arms, with a 95 % interval by the pigeonhole bootstrap.

        d[s, p] = arm[s, p] - baseline[s, p],   mean = sum_sp d[s, p] / (S P)
        draw:  n ~ Multinomial(S, 1/S),  m ~ Multinomial(P, 1/P),  sum_sp n[s] m[p] d[s, p] / (S P)

    Seeds are resampled, then problems, both with replacement, 10,000 times; the interval is from the 2.5 % to the
    97.5 % quantile of the draws (Owen 2007, "The pigeonhole bootstrap", doi:10.1214/07-AOAS122). Every seed answers
    the same problems, so one draw of problems serves all seeds: drawing them for each seed apart would take a problem
    that is hard under every seed for several independent ones. The generator's seed is fixed, so the same outcomes
    have the same interval, and swapping the arms mirrors it.

    With two seeds or more the interval is wide rather than narrow: it counts the noise of single answers more than
    once, and covers the truth in 95 to 100 of 100 synthetic studies (docs/log.md). With one seed it speaks of that
    seed alone, and says nothing of how seeds vary.

    Args:
        arm: one row per seed, one column per held-out problem.
        baseline: the same seeds and problems in the same order.

    Raises:
        ValueError: the shapes differ, or the arrays are empty.
    """
    if arm.shape != baseline.shape or arm.ndim != 2 or arm.size == 0:
        raise ValueError(f"outcomes of shapes {arm.shape} and {baseline.shape} cannot be paired")
    differences = arm - baseline
    draws = _draws(differences)
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Difference(
        mean=float(differences.mean()),
        low=float(low),
        high=float(high),
        by_seed=tuple(differences.mean(axis=1).tolist()),
    )


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


def _draws(differences: Outcomes) -> npt.NDArray[np.float64]:
    """Return the mean difference of each resampling, shape (DRAWS,)."""
    seeds, problems = differences.shape
    rng = np.random.default_rng(GENERATOR_SEED)
    draws: list[npt.NDArray[np.float64]] = []
    for _ in range(DRAWS // DRAWS_AT_ONCE):
        times_seed = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=DRAWS_AT_ONCE)
        times_problem = rng.multinomial(problems, np.full(problems, 1 / problems), size=DRAWS_AT_ONCE)
        of_seed = times_problem.astype(np.float64) @ differences.T / problems
        draws.append((of_seed * times_seed).sum(axis=1) / seeds)
    return np.concatenate(draws)
