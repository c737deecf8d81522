"""How much each client counts in a round: its weight, within cap and floor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ...common.aggregation.weights import WEIGHTS, ClientReport
from ...common.errors import ProtocolError
from ...common.messages.messages import Update

NEGLIGIBLE = 1e-6
"""A share below this counts nothing."""
SMALLEST = 1e-300
"""Relative to the largest weight: smaller ones are taken for this, so that scaling overflows nowhere."""
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


def share_cap(max_share: float, clients: int) -> float:
    """Return the largest share that one of some counted clients may have: `max_share` if it is above an even share 1/K,
    else twice an even share.

    A cap of 1/K or less can only be met, if at all, by counting everybody alike, whatever the weights say: the default
    of .5 would make a mean of two clients uniform.

    >>> [share_cap(0.5, clients) for clients in (1, 2, 3, 10)], share_cap(0.25, 4)
    ([1.0, 1.0, 0.5, 0.5], 0.5)
    """
    return max_share if max_share * clients > 1 else min(1.0, 2 / clients)


def shares(weights: Mapping[str, float], max_share: float, min_share: float = 0.0) -> dict[str, float]:
    """Return weights scaled to sum to 1, each at least `min_share` (1/K, where K clients cannot satisfy it) and at most
    `share_cap(max_share, K)`.

        share_k = min(max(c * w_k, min_share), cap), with the c for which they sum to 1

    The share of a client without weight, or whose share is below a millionth once the others are capped, is 0. The cap
    comes first, so that a huge weight makes nobody else negligible. All are zero if every weight is zero.
    """
    positive = {name: weights[name] for name in sorted(weights) if weights[name] > 0}
    if not positive:
        return dict.fromkeys(weights, 0.0)
    _, exponent = math.frexp(max(positive.values()))
    positive = {name: math.ldexp(weight, -exponent) for name, weight in positive.items()}  # exact; at most 1
    positive = {name: max(weight, SMALLEST) for name, weight in positive.items()}
    alone = _within(positive, share_cap(max_share, len(positive)), 0.0)
    counted = {name: weight for name, weight in positive.items() if alone[name] > NEGLIGIBLE}
    low = min(min_share, 1 / len(counted))
    found = _within(counted, share_cap(max_share, len(counted)), low)
    return found | {name: 0.0 for name in weights if name not in counted}


def capped(weights: Mapping[str, float], found: Mapping[str, float], max_share: float) -> dict[str, float]:
    """Return the shares of the clients that count less than their weights say because of the cap.

    Args:
        found: the shares that `shares` made of the weights.
    """
    total, cap = sum(weights.values()), share_cap(max_share, max(1, sum(share > 0 for share in found.values())))
    return {n: share for n, share in found.items() if share >= cap and weights[n] > cap * total * (1 + 1e-9)}


def _within(weights: Mapping[str, float], high: float, low: float) -> dict[str, float]:
    """Return positive weights scaled to sum to 1, each within two bounds that some scale satisfies."""

    def at(factor: float) -> dict[str, float]:
        return {name: min(max(factor * weight, low), high) for name, weight in weights.items()}

    # The sum rises with the factor, from K * low to K * high: halve the interval until only rounding is left.
    below, above = 0.0, high / min(weights.values())
    while below < (middle := (below + above) / 2) < above:
        below, above = (middle, above) if sum(at(middle).values()) < 1 else (below, middle)
    found = at(above)
    bound = {name: share for name, share in found.items() if share in (low, high)}
    free = sum(weights[name] for name in weights if name not in bound)
    room = 1 - sum(bound.values())
    return {name: bound.get(name, weights[name] * room / free if free else 0.0) for name in weights}
