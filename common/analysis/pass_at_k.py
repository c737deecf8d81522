"""Estimates over several completions per problem, with intervals. Pure functions of numbers."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from .bootstrap import paired_difference
from .scores import Z95

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

VOTE_DRAWS = 200
VOTE_SEED = 20240229
NO_ANSWER = -1


def pass_at_k(samples: int, right: Ints, k: int) -> Floats:
    r"""Return, by problem, the unbiased chance that one of k completions is right (Chen et al. 2021, arXiv:2107.03374,
    eq. 1).

        1 - C(n - c, k) / C(n, k) = 1 - prod_{i = n-c+1}^{n} (1 - k / i)

    The product, as in the paper's numerically stable form: no binomial is ever computed.

    Args:
        samples: n, completions per problem.
        right: c of each problem, 0 to n.
        k: 1 to n.

    Raises:
        ValueError: k is not within 1 to n, or a count is not within 0 to n.
    """
    if not 1 <= k <= samples or (right < 0).any() or (right > samples).any():
        raise ValueError(f"pass@{k} of {samples} completions, {right.min()} to {right.max()} of which are right")
    return np.array([_pass(samples, int(c), k) for c in right])


def majority_at_k(answers: Ints, right: npt.NDArray[np.bool_], k: int) -> Floats:
    """Return, by problem, the chance that the most frequent answer of k completions is right: maj@k.

    The mean over 200 draws of k of the n completions, in random order and without repetition, from a fixed seed. Among
    equally frequent answers the one that came first wins. A completion without an answer has no vote; where none has
    one, the vote is wrong.

    Args:
        answers: shape (problems, n): the answer of each completion, numbered from 0; NO_ANSWER for none.
        right: shape (problems, n): whether that answer is right.
        k: 1 to n.
    """
    rng = np.random.default_rng(VOTE_SEED)
    return np.array([_vote(a, r, k, rng) for a, r in zip(answers, right, strict=True)])


def difference_interval(after: Floats, before: Floats) -> tuple[float, float]:
    """Return the 95 % interval of the mean difference over problems that both answered, by bootstrap over the problems.

    Args:
        after, before: a value for each problem, in the same order.
    """
    difference = paired_difference(after[np.newaxis], before[np.newaxis])
    return difference.low, difference.high


def mean_interval(values: Floats) -> tuple[float, float]:
    """Return the 95 % interval of a mean over problems, by bootstrap over the problems."""
    return difference_interval(values, np.zeros_like(values))


def proportion_interval(right: int, problems: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927, doi:10.1080/01621459.1927.10502953). Never of width 0."""
    share, z2 = right / problems, Z95**2
    middle = (share + z2 / (2 * problems)) / (1 + z2 / problems)
    half = Z95 / (1 + z2 / problems) * math.sqrt(share * (1 - share) / problems + z2 / (4 * problems**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def _pass(n: int, c: int, k: int) -> float:
    if n - c < k:
        return 1.0
    return 1.0 - float(np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


def _vote(answers: Ints, right: npt.NDArray[np.bool_], k: int, rng: np.random.Generator) -> float:
    """Return maj@k of one problem."""
    order = rng.permuted(np.tile(np.arange(len(answers)), (VOTE_DRAWS, 1)), axis=1)[:, :k]
    kinds = np.unique(answers[answers != NO_ANSWER])
    if not len(kinds):
        return 0.0
    cast_votes = answers[order][:, :, np.newaxis] == kinds  # (draws, k, kinds)
    votes, first = cast_votes.sum(axis=1), cast_votes.argmax(axis=1)
    wins = (votes - first / (k + 1.0)).argmax(axis=1)
    is_right = np.array([bool(right[answers == kind].any()) for kind in kinds])
    return float((is_right[wins] & (votes.max(axis=1) > 0)).mean())
