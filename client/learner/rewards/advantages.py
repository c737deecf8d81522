"""Group-relative advantages from rewards, as TRL computes them, without torch: for pages and tables, not for training.

Array shapes are the suffix of a name: P groups of G completions each, F reward functions.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

EPSILON = np.float32(1e-4)
"""Added to a standard deviation before dividing by it (TRL)."""
EQUAL = 1e-6
"""Rewards that differ by less, or by this share of the largest, are equal: float noise is not a signal."""


@dataclass(frozen=True, slots=True)
class Advantages:
    """What the completions of groups are paid, and what is left of it relative to their group."""

    total: np.ndarray
    """Weighted sums of the rewards, P x G; NaN where no function scored a completion."""
    advantage: np.ndarray
    """P x G."""
    signal: np.ndarray
    """P booleans: whether a group's rewards differ: without it, its advantages are 0 and nothing is learned from it."""


def advantages(
    rewards_PGF: np.ndarray,
    weights_F: Sequence[float],
    *,
    scale_rewards: str = "group",
    normalize_first: bool = False,
) -> Advantages:
    """Return the advantages of groups of completions (GRPO, arXiv:2402.03300; each reward normalised on its own first:
    GDPO, arXiv:2601.05242).

    Args:
        rewards_PGF: NaN where a function left a completion out.
        scale_rewards: what a difference to the group's mean is divided by: the standard deviation of the `group`, of
            the `batch`, or nothing (`none`).
        normalize_first: normalise each reward within its group before they are weighted and summed, then over the
            batch; `scale_rewards` is then not used.
    """
    rewards_PGF = np.asarray(rewards_PGF, dtype=np.float32)
    weights = np.asarray(weights_F, dtype=np.float32)
    unscored_PG = np.isnan(rewards_PGF).all(axis=2)
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):  # means of nothing are NaN
        warnings.simplefilter("ignore", RuntimeWarning)
        weighted_PGF = rewards_PGF * weights
        total_PG = np.where(unscored_PG, np.nan, np.nansum(weighted_PGF, axis=2)).astype(np.float32)
        if normalize_first:
            centred = rewards_PGF - np.nanmean(rewards_PGF, axis=1, keepdims=True)
            normal_PGF = centred / (_std(rewards_PGF, axis=1) + EPSILON)
            summed_PG = np.where(unscored_PG, np.nan, np.nansum(normal_PGF * weights, axis=2)).astype(np.float32)
            advantage_PG = (summed_PG - np.nanmean(summed_PG)) / (_std(summed_PG, axis=None) + EPSILON)
            compared_PGF = weighted_PGF
        else:
            advantage_PG = total_PG - np.nanmean(total_PG, axis=1, keepdims=True)
            if scale_rewards != "none":
                spread = _std(total_PG, axis=1 if scale_rewards == "group" else None)
                advantage_PG = advantage_PG / (spread + EPSILON)
            compared_PGF = total_PG[:, :, None]
        high_PF, low_PF = np.nanmax(compared_PGF, axis=1), np.nanmin(compared_PGF, axis=1)
        noise_PF = EQUAL * np.maximum(np.maximum(np.abs(high_PF), np.abs(low_PF)), 1.0)
        signal_P = (high_PF - low_PF > noise_PF).any(axis=1)
    advantage_PG = np.nan_to_num(advantage_PG, nan=0.0) * signal_P[:, None]
    return Advantages(total_PG, advantage_PG.astype(np.float32), signal_P)


def _std(values: np.ndarray, axis: int | None) -> np.ndarray:
    """Return the standard deviation with Bessel's correction, which TRL's `nanstd` has; 0 of one value."""
    count = (~np.isnan(values)).sum(axis=axis, keepdims=True)
    variance = np.nansum((values - np.nanmean(values, axis=axis, keepdims=True)) ** 2, axis=axis, keepdims=True)
    return np.sqrt(variance / np.maximum(count - 1, 1)).astype(np.float32)
