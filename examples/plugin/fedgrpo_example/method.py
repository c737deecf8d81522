"""An aggregation method: every update is scaled to the same length before the mean."""

import numpy as np
from fedgrpo.common.adapter.methods import Method


def equal_length(current, updates, holders):
    """Return the adapter moved by sum_k w_k (m / ||d_k||) d_k, with m the weighted mean of the lengths ||d_k||.

    Args:
        current: the global adapter.
        updates: those with a weight; `coefficient` is w_k, `delta[:]` the float32 vector d_k.
        holders: whether `aggregation.rank-weights` is `holders`; means nothing without mixed ranks.
    """
    deltas = [update.delta[:].astype(np.float64) for update in updates]
    lengths = [float(np.linalg.norm(delta)) for delta in deltas]
    weights = [update.coefficient for update in updates]
    mean_length = sum(w * length for w, length in zip(weights, lengths, strict=True)) / sum(weights)
    move = np.zeros(current.schema.size)
    for delta, length, weight in zip(deltas, lengths, weights, strict=True):
        if length > 0:  # a client that learned nothing has no direction
            move += weight * (mean_length / length) * delta
    return current.plus(move)


EQUAL_LENGTH = Method(
    holds=("B",),  # factors in the global adapter; A is drawn from the run's seed
    trains=(("B",),),  # factors that clients train and send: one entry per turn
    mixed_ranks=False,
    linear=False,  # it is not the mean of the vectors: needs `aggregate`
    source="an example",
    summary="mean of B, every update scaled to the same length",
    aggregate=equal_length,
)
