"""A round's step: robust rule, fold, the server's optimizer, rounding. Pure: state and updates in, state out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ...common.adapter.adapter import Adapter
from ...common.adapter.methods import METHODS
from ...common.adapter.schema import fit
from ...common.messages.compression import rounded
from ...common.settings.aggregation import Aggregation
from . import robust
from .methods import AGGREGATORS, mean_delta
from .products import ClientUpdate, Products, Slices, component_weights
from .server_optimizers import SERVER_OPTIMIZERS

Memory = dict[str, npt.NDArray[np.float64]]
MASTER = "master"
"""Key in the memory of the adapter before it was rounded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Result of aggregating one round."""

    adapter: Adapter
    memory: Memory
    error: float
    """`Products.error` of the aggregation, before the server's optimizer."""
    shares: dict[str, float]
    """Share of each client, after a rule that selects clients."""


def next_adapter(
    current: Adapter, memory: Memory, given: Mapping[str, ClientUpdate], settings: Aggregation, codec: str = "fp32"
) -> Step:
    """Return the next global adapter: the current one, moved by the clients' updates.

    Args:
        memory: what this function returned in the round before; empty before the first.
        given: updates by organisation, in any order. Updates without a share are not read.
        codec: codec that the adapter is rounded for (`compression.down`); the memory keeps the unrounded one.
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
    """Return the factors that normalise deltas of clients with different numbers of steps tau_k.

    A client that took more would pull the mean towards its own optimum (FedNova, Wang et al. 2020, arXiv:2007.07481,
    eq. 8, with the mean number of steps as the effective one):

        factor_k = (sum_j p_j tau_j) / tau_k
    """
    if len({steps[name] for name in shares if shares[name] > 0}) <= 1:
        return dict.fromkeys(shares, 1.0)
    effective = sum(shares[name] * steps[name] for name in sorted(shares))
    return {name: effective / steps[name] for name in shares}


def clip_factors(norms: Mapping[str, float], limit: float) -> dict[str, float]:
    """Return the factors that scale longer deltas down to a norm."""
    return {name: limit / norm if norm > limit else 1.0 for name, norm in norms.items()}


def _chosen(contributions: list[ClientUpdate], settings: Aggregation) -> list[ClientUpdate]:
    """Return the updates with the shares that a robust rule gives them, if it is one that selects clients."""
    if settings.rule not in robust.CHOOSING or not contributions:
        return contributions
    deltas, factors = _alike(contributions), np.array([c.factor for c in contributions])
    inner = robust.gram(deltas) * np.outer(factors, factors)
    new = robust.CHOOSING[settings.rule](inner, np.array([c.share for c in contributions]), settings.hostile)
    return [replace(c, share=float(share)) for c, share in zip(contributions, new, strict=True)]


def _alike(contributions: Sequence[ClientUpdate]) -> list[Slices]:
    """Return the deltas at the largest rank among them. If ranks differ, all of them are in memory."""
    largest = max((c.schema for c in contributions), key=lambda schema: schema.rank)
    if all(c.schema.rank == largest.rank for c in contributions):
        return [c.delta for c in contributions]
    return [c.fitted(largest) for c in contributions]


def _folded(
    current: Adapter, memory: Memory, contributions: Sequence[ClientUpdate], settings: Aggregation
) -> tuple[Adapter, Memory, float]:
    """Return (the next adapter, the optimizer's memory, the error of the aggregation)."""
    holders = settings.rank_weights == "holders"
    if not METHODS[settings.method].linear:
        rate = settings.server_learning_rate
        scaled = [replace(c, factor=rate * c.factor) for c in contributions]
        following = AGGREGATORS[settings.method](current, scaled, holders)
        return following, {}, _error(current, scaled, following, holders)
    if settings.rule in robust.BY_COORDINATE:
        deltas, factors = _alike(contributions), np.array([c.factor for c in contributions])
        move = robust.by_coordinate(settings.rule, deltas, factors, settings.hostile)
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
