"""A lower bound on epsilon from canaries of one training run (Steinke, Nasr and Jagielski 2023, arXiv:2305.08846).

Each of m canaries is trained on or left out by a coin of its own. An auditor who sees only the result says of some of
them which it was. If training were (epsilon, delta)-differentially private for each canary, guesses would not be right
much more often than those about a randomised response with that epsilon. If they are, training was not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .binomial import crossing, probabilities
from .roc import auc

CONFIDENCE = 0.95
GUESSED_SHARES = (0.125, 0.25, 0.5, 1.0)
"""Shares of the canaries that are guessed about. All are tried; the bound of each has a quarter of the error."""
MOST_EPSILON = 64.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OneRun:
    """What the canaries of one run show."""

    canaries: int
    included: int
    auc: float
    """Of the scores of all canaries: the chance that an included one has the higher. 0.5 without both kinds."""
    guesses: int
    """Of the share that gives the highest bound."""
    right: int
    delta: float
    confidence: float
    epsilon: float
    """With this confidence the run was not (epsilon', delta)-private for any epsilon' below; 0 shows nothing."""


def p_value(canaries: int, guesses: int, right: int, *, epsilon: float, delta: float) -> float:
    r"""Return a bound on the chance of so many right guesses if training is (epsilon, delta)-private (Theorem 5.2).

    For m canaries, each included with probability 1/2, r guesses and v right ones among them:

        P[right >= v] <= beta + alpha m delta,
        beta  = P[W >= v],   alpha = max over i = 1 ... m of (2 / i) P[v > W >= v - i],
        W ~ Binomial(r, e^epsilon / (e^epsilon + 1))

    Raises:
        ValueError: 0 <= right <= guesses <= canaries, epsilon >= 0 or 0 <= delta <= 1 does not hold.
    """
    if not (0 <= right <= guesses <= canaries and epsilon >= 0 and 0 <= delta <= 1):
        raise ValueError(f"{right} of {guesses} guesses on {canaries} canaries, epsilon {epsilon}, delta {delta}")
    of_right = probabilities(guesses, 1 / (1 + math.exp(-epsilon)))
    beta = float(of_right[right:].sum())
    just_below = np.cumsum(of_right[:right][::-1])  # at index i - 1: P[v > W >= v - i]
    alpha = float((2 * just_below / np.arange(1, right + 1)).max()) if right else 0.0
    return min(1.0, beta + alpha * canaries * delta)


def epsilon_bound(canaries: int, guesses: int, right: int, *, delta: float, error: float = 1 - CONFIDENCE) -> float:
    """Return the largest epsilon at which `p_value` is still below `error`; 0 if it is not even below it at 0."""

    def p(epsilon: float) -> float:
        return p_value(canaries, guesses, right, epsilon=epsilon, delta=delta)

    return crossing(p, error, 0.0, MOST_EPSILON) if p(0.0) < error else 0.0


def audit(
    scores: npt.NDArray[np.float64],
    included: npt.NDArray[np.bool_],
    *,
    delta: float,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> OneRun:
    """Guess that the canaries with the highest scores were included and those with the lowest were not, and count.

    Half of the guesses are of each kind. Which share of the canaries to guess about is not known beforehand, so each of
    GUESSED_SHARES is tried and the error divided among them. Equal scores are put in an order by chance (`seed`), never
    by whether they were included.

    Args:
        scores: of m >= 2 canaries, from the trained adapter and the canary alone; higher says included.
        included: the coins, which must have been fair and independent.
    """
    count, both = len(scores), bool(included.any() and not included.all())
    area = auc(scores[included], scores[~included]) if both else 0.5
    shuffled = np.random.default_rng(seed).permutation(count)
    falling = shuffled[np.argsort(-scores[shuffled], kind="stable")]
    found: list[OneRun] = []
    for share in GUESSED_SHARES:
        each = max(1, round(share * count / 2))
        each = min(each, count // 2)
        right = int(included[falling[:each]].sum() + (~included[falling[count - each :]]).sum())
        error = (1 - confidence) / len(GUESSED_SHARES)
        found.append(
            OneRun(
                canaries=count,
                included=int(included.sum()),
                auc=area,
                guesses=2 * each,
                right=right,
                delta=delta,
                confidence=confidence,
                epsilon=epsilon_bound(count, 2 * each, right, delta=delta, error=error),
            )
        )
    return max(found, key=lambda one: (one.epsilon, one.guesses))
