"""A robust rule: leave out updates that are far longer than the median one."""

import numpy as np
from fedgrpo.common.aggregation.robust import Rule

FACTOR = 2.0


def norm_filter(inner, weights, hostile):
    """Return the weights (K,) with 0 for updates longer than twice the median, and the sum they had.

    Args:
        inner: inner products of the updates, shape (K, K): the diagonal holds the squared lengths.
        weights: shape (K,).
        hostile: `aggregation.hostile`, not used here.
    """
    lengths = np.sqrt(np.diag(inner))
    kept = np.where(lengths <= FACTOR * np.median(lengths), weights, 0.0)
    return kept * (weights.sum() / kept.sum()) if kept.sum() > 0 else weights


NORM_FILTER = Rule(
    reweigh=norm_filter,  # or `combine`, for a rule by coordinate
    updates_needed=lambda hostile: 2 * hostile + 1,  # the median is honest while most updates are
    summary="mean of the updates at most twice as long as the median one",
)
