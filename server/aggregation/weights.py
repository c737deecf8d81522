"""How much each client counts in a round: its weight, within cap and floor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ...common.aggregation.weights import WEIGHTS, ClientReport
from ...common.errors import ProtocolError
from ...common.messages.messages import Update

NEGLIGIBLE = 1e-6
KEPT_ROUNDS = 5
"""Rounds of a client's mean reward that its relative gain is measured against."""


def raw_weight(update: Update, rule: str, history: Sequence[float] = ()) -> float:
    """A client's weight by a rule of `aggregation.weights`, before cap and floor.

    Args:
        history: the client's mean rewards in its last rounds that counted.

    Raises:
        ProtocolError: the rule does not make a finite number >= 0 of this client's metrics.
    """
    report = ClientReport(
        metrics=update.metrics,
        num_examples=update.num_examples,
        num_steps=update.num_steps,
        past_rewards=tuple(history),
    )
    try:
        weight = float(WEIGHTS[rule].of(report))
    except (ValueError, ArithmeticError) as error:
        raise ProtocolError("weight", f"aggregation.weights {rule} cannot weigh these metrics: {error}") from error
    if not 0 <= weight < math.inf:
        raise ProtocolError("weight", f"aggregation.weights {rule} makes {weight} of these metrics, not a weight")
    return weight


def shares(weights: Mapping[str, float], max_share: float, min_share: float = 0.0) -> dict[str, float]:
    """Return weights scaled to sum to 1, each within `min_share` and `max_share` (1/K, where K clients cannot satisfy
    one).

        share_k = min(max(c * w_k, min_share), max_share), with the c for which they sum to 1

    The share of a client without weight, or with less than a millionth of the largest weight, is 0. All are zero if
    every weight is zero.
    """
    largest = max(weights.values(), default=0.0)
    counted = {name: weights[name] for name in sorted(weights) if weights[name] > NEGLIGIBLE * largest}
    if not counted:
        return dict.fromkeys(weights, 0.0)
    high, low = max(max_share, 1 / len(counted)), min(min_share, 1 / len(counted))

    def at(factor: float) -> dict[str, float]:
        return {name: min(max(factor * weight, low), high) for name, weight in counted.items()}

    # The sum rises with the factor, from K * low to K * high: halve the interval until only rounding is left.
    below, above = 0.0, high / min(counted.values())
    while below < (middle := (below + above) / 2) < above:
        below, above = (middle, above) if sum(at(middle).values()) < 1 else (below, middle)
    found = at(above)
    bound = {name: share for name, share in found.items() if share in (low, high)}
    free = sum(counted[name] for name in counted if name not in bound)
    room = 1 - sum(bound.values())
    return {name: bound.get(name, counted[name] * room / free if free else 0.0) for name in counted} | {
        name: 0.0 for name in weights if name not in counted
    }
