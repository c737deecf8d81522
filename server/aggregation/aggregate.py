"""One round of federated learning as a pure function: (state, updates, settings) -> (state, diagnostics)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from ...common.adapter.adapter import Adapter, l2_norm
from ...common.adapter.compression import rounded
from ...common.adapter.methods import METHODS
from ...common.adapter.schema import AdapterSchema, fit
from ...common.aggregation.robust import RULES
from ...common.settings.aggregation import Aggregation, Intake
from ...common.settings.run_config import RunConfig
from . import robust
from .methods import aggregator, mean_delta
from .products import ClientUpdate, Products, Slices, component_weights
from .server_optimizers import SERVER_OPTIMIZERS
from .state import Memory, State
from .weights import KEPT_ROUNDS, capped, shares

MASTER = "master"
"""Key in the memory of the adapter before it was rounded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedUpdate:
    """One client's valid update, before it is weighted."""

    delta: Slices
    """Laid out by the client's schema; may lie on the disk, and is then read in slices."""
    schema: AdapterSchema
    norm: float
    """L2 norm of the delta."""
    weight: float
    """Before cap and floor: `weights.raw_weight`."""
    steps: int
    """Optimizer steps taken."""
    examples: int
    """Prompts trained on."""
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostics:
    """What one round's updates counted, and how far the adapter moved."""

    shares: dict[str, float]
    """What each client counted, after a robust rule that chooses."""
    capped: dict[str, float]
    """The shares of the clients whose weight was cut down to `aggregation.max-share`."""
    clipped: dict[str, bool]
    """Whether a client's delta was scaled down, by organisation."""
    error: float | None
    """`Products.error` of the method, before the server's optimizer; None where products are not seen."""
    update_norm: float
    """L2 norm of the change of the global adapter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Result of `next_adapter`."""

    adapter: Adapter
    memory: Memory
    error: float
    """`Products.error` of the aggregation, before the server's optimizer."""
    shares: dict[str, float]
    """Share of each client, after a rule that selects clients."""


def aggregate(state: State, updates: Mapping[str, ReceivedUpdate], settings: RunConfig) -> tuple[State, Diagnostics]:
    """Return the state after one more round, and what the round's updates counted.

        p_k     = share of client k's weight, not below min-share or above its cap        (`shares`)
        f_k     = (sum_j p_j tau_j) / tau_k, where the numbers of steps tau differ         (`step_factors`)
        c_k     = min(1, limit / || f_k delta_k ||)                                        (`clip_factors`)
        move    = sum_k p_k c_k f_k delta_k, or what a robust rule makes of these terms    (`next_adapter`)
        adapter = rounded(adapter + server_optimizer(move)); methods that are not linear aggregate products instead

    FedAvg (McMahan et al. 2017, arXiv:1602.05629), normalised as in FedNova (Wang et al. 2020, arXiv:2007.07481), with
    FedOpt's server optimizers (Reddi et al. 2021, arXiv:2003.00295). Pure: reads neither files nor a clock, draws no
    random numbers, and does not depend on the order of the updates.

    Args:
        state: after the last committed round. The attempt that is aggregated is number `state.voids + 1`.
        updates: by organisation; at least one.
    """
    reported, most = {name: update.weight for name, update in updates.items()}, settings.aggregation.max_share
    weights = shares(reported, most, settings.aggregation.min_share)
    factors = step_factors(weights, {name: update.steps for name, update in updates.items()})
    norms = {name: update.norm * factors[name] for name, update in updates.items()}  # as they count
    median_norm = float(median([norm for norm in norms.values() if norm > 0] or [state.median_norm]))
    clips = clip_factors(norms, clip_limit(settings.intake, state.median_norm or median_norm))
    weighted = {
        name: ClientUpdate(weights[name], clips[name] * factors[name], update.schema, update.delta)
        for name, update in updates.items()
    }
    step = next_adapter(state.adapter, state.memory, weighted, settings.named_aggregation, settings.compression.down)
    books = _counted(state, updates, step.shares)
    after = replace(books, adapter=step.adapter, memory=step.memory, median_norm=median_norm)
    return after, Diagnostics(
        shares=step.shares,
        capped=capped(reported, weights, most),
        clipped={name: clip < 1 for name, clip in clips.items()},
        error=step.error,
        update_norm=l2_norm(after.adapter.minus(state.adapter)),
    )


def _counted(state: State, updates: Mapping[str, ReceivedUpdate], shares: Mapping[str, float]) -> State:
    """Return the state with the round's bookkeeping: prompts used, whose update counted, rewards reported."""
    number, attempt, names = state.round + 1, state.voids + 1, sorted(updates)
    used = {name: state.positions.get(name, 0) + updates[name].examples for name in names}
    means = {name: updates[name].metrics["reward/mean"] for name in names if "reward/mean" in updates[name].metrics}
    histories = {name: (*state.rewards.get(name, ()), mean)[-KEPT_ROUNDS:] for name, mean in means.items()}
    return replace(
        state,
        round=number,
        voids=0,
        positions={**state.positions, **used},
        counted={**state.counted, **{name: (number, attempt) for name in names if shares[name] > 0}},
        rewards={**state.rewards, **histories},
    )


def clip_limit(intake: Intake, median_norm: float) -> float:
    """Return the norm of the longest delta that counts in full.

    min(max-delta-norm, clip-to-median * median norm of the round before)
    """
    of_median = intake.clip_to_median * median_norm
    return min(intake.max_delta_norm, of_median) if of_median else intake.max_delta_norm


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
    """The contributions with the shares that a robust rule gives them, where it is one that chooses."""
    reweigh = RULES[settings.rule].reweigh
    if reweigh is None or not contributions:
        return contributions
    deltas, factors = _alike(contributions), np.array([c.factor for c in contributions])
    inner = robust.gram(deltas) * np.outer(factors, factors)
    new = reweigh(inner, np.array([c.share for c in contributions]), settings.hostile)
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
