"""A round's step: robust rule, fold, the server's optimizer, rounding. Pure: state and updates in, state out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ...common.adapter.adapter import Adapter
from ...common.adapter.compression import rounded
from ...common.adapter.methods import METHODS
from ...common.adapter.schema import fit
from ...common.aggregation.robust import RULES
from ...common.settings.aggregation import Aggregation
from . import robust
from .methods import aggregator, mean_delta
from .products import ClientUpdate, Products, Slices, component_weights
from .server_optimizers import SERVER_OPTIMIZERS

Memory = dict[str, npt.NDArray[np.float64]]
MASTER = "master"
"""In the memory: the adapter before it was rounded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What a round comes to."""

    adapter: Adapter
    memory: Memory
    error: float
    """`Products.error` of the fold, before the server's optimizer."""
    shares: dict[str, float]
    """What each client counted, after a rule that chooses."""


def next_adapter(
    current: Adapter, memory: Memory, given: Mapping[str, ClientUpdate], settings: Aggregation, codec: str = "fp32"
) -> Step:
    """The next global adapter: the current one, moved by what the clients gave.

    Args:
        memory: what this function returned the round before; empty before the first.
        given: by organisation, in any order. Who has no share is not read.
        codec: to what the adapter is rounded (`compression.down`); the unrounded one is kept in the memory.
    """
    if MASTER in memory:
        current = replace(current, vector=memory[MASTER].astype(np.float32))
    names = [name for name in sorted(given) if given[name].share > 0]
    contributions = _chosen([given[name] for name in names], settings)
    shares = dict.fromkeys(given, 0.0) | {n: c.share for n, c in zip(names, contributions, strict=True)}
    if not contributions:
        return Step(adapter=_rounded(current, codec), memory=memory, error=0.0, shares=shares)
    exact, memory, error = _folded(current, memory, contributions, settings)
    if codec != "fp32":
        memory = {**memory, MASTER: exact.vector.astype(np.float64)}
    return Step(adapter=_rounded(exact, codec), memory=memory, error=error, shares=shares)


def step_factors(shares: Mapping[str, float], steps: Mapping[str, int]) -> dict[str, float]:
    """What normalises deltas where clients took different numbers of steps tau_k.

    Who took more would pull the mean towards its own optimum (FedNova, Wang et al. 2020, arXiv:2007.07481, eq. 8, with
    the mean number of steps as the effective one):

        factor_k = (sum_j p_j tau_j) / tau_k
    """
    if len({steps[name] for name in shares if shares[name] > 0}) <= 1:
        return dict.fromkeys(shares, 1.0)
    effective = sum(shares[name] * steps[name] for name in sorted(shares))
    return {name: effective / steps[name] for name in shares}


def clip_factors(norms: Mapping[str, float], limit: float) -> dict[str, float]:
    """What scales longer deltas down to a length."""
    return {name: limit / norm if norm > limit else 1.0 for name, norm in norms.items()}


def _chosen(contributions: list[ClientUpdate], settings: Aggregation) -> list[ClientUpdate]:
    """The contributions with the shares that a robust rule gives them, where it is one that chooses."""
    reweigh = RULES[settings.rule].reweigh
    if reweigh is None or not contributions:
        return contributions
    deltas, factors = _alike(contributions), np.array([c.factor for c in contributions])
    inner = robust.gram(deltas) * np.outer(factors, factors)
    new = reweigh(inner, np.array([c.share for c in contributions]), settings.hostile)
    return [replace(c, share=float(share)) for c, share in zip(contributions, new, strict=True)]


def _alike(contributions: Sequence[ClientUpdate]) -> list[Slices]:
    """The deltas at the largest rank among them. Where ranks differ, all of them are in memory."""
    largest = max((c.schema for c in contributions), key=lambda schema: schema.rank)
    if all(c.schema.rank == largest.rank for c in contributions):
        return [c.delta for c in contributions]
    return [c.fitted(largest) for c in contributions]


def _folded(
    current: Adapter, memory: Memory, contributions: Sequence[ClientUpdate], settings: Aggregation
) -> tuple[Adapter, Memory, float]:
    """(the next adapter, the optimizer's memory, the fold's error)."""
    holders = settings.rank_weights == "holders"
    if not METHODS[settings.method].linear:
        rate = settings.server_learning_rate
        scaled = [replace(c, factor=rate * c.factor) for c in contributions]
        following = aggregator(settings.method)(current, scaled, holders)
        return following, {}, _error(current, scaled, following, holders)
    combine = RULES[settings.rule].combine
    if combine is not None:
        deltas, factors = _alike(contributions), np.array([c.factor for c in contributions])
        move = robust.by_coordinate(combine, deltas, factors, settings.hostile)
        largest = max((c.schema for c in contributions), key=lambda schema: schema.rank)
        move = move if move.size == current.schema.size else fit(move, largest, current.schema)
    else:
        move = mean_delta(current, contributions, holders)
    optimizer = SERVER_OPTIMIZERS[settings.server_optimizer]
    kept = {name: value for name, value in memory.items() if name != MASTER}
    step, kept = optimizer.apply(move, kept or optimizer.init(move.size), settings)
    return current.plus(step), kept, _error(current, contributions, current.plus(move), holders)


def _error(current: Adapter, given: Sequence[ClientUpdate], following: Adapter, holders: bool) -> float:
    return Products(current, given, component_weights(current.schema, given, holders)).error(following)


def _rounded(adapter: Adapter, codec: str) -> Adapter:
    return replace(adapter, vector=rounded(adapter.vector, codec)) if codec != "fp32" else adapter
