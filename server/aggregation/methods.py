"""The aggregation of each method: from the current global adapter and the clients' deltas to the next adapter.

With w_k a client's coefficient (its share, where all took as many steps), client k's product moved from B A to B_k A_k,
and the target of every aggregation is

    W + B A + sum_k w_k (B_k A_k - B A)

A client of rank r < R gets the first r components, and moves those. With `rank-weights = holders` the w_k of component
i
are scaled to the sum over all clients: a component that only some clients can train is not diluted by the others
(raFLoRA, rank-partitioned weights).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from ...common.adapter.adapter import Adapter
from ...common.adapter.methods import METHODS
from ...common.adapter.schema import Key, split
from ...common.seeds import derived_seed
from .products import BlockReader, ClientUpdate, Products, Slices, Wide, component_weights

Aggregator = Callable[[Adapter, Sequence[ClientUpdate], bool], Adapter]
"""(current adapter, updates with a weight, whether `rank-weights` is `holders`) -> the next adapter."""
BLOCK, AT_ONCE = 1 << 16, 8
"""Coordinates and vectors summed at a time: few enough for a processor's cache."""
ROW_NORM = 3**-0.5
"""Norm of a row of A when training begins (uniform in +-1/sqrt(in)); the SVD's rows are scaled to it."""


def mean_delta(current: Adapter, given: Sequence[ClientUpdate], holders: bool) -> Wide:
    """sum_k w_k delta_k in float64, deltas of smaller rank padded with zeros (McMahan et al. 2017, arXiv:1602.05629).

    Sums in the order of `given`, which is that of the organisations' names, so the order of replies does not matter.
    """
    schema = current.schema
    if all(c.schema.sha256 == schema.sha256 for c in given):
        return _weighted_sum([c.coefficient for c in given], [c.delta for c in given])
    total = np.zeros(schema.size)
    for c, weights in zip(given, component_weights(schema, given, holders), strict=True):
        fitted = c.fitted(schema).astype(np.float64)
        for (_, factor), part in split(schema, fitted).items():
            if factor in ("A", "B"):  # W is not trained by any client
                part *= weights if factor == "B" else weights[:, None]
        total += fitted
    return total


def _weighted_sum(weights: Sequence[float], vectors: Sequence[Slices]) -> Wide:
    """Return sum_k w_k x_k in float64, computed in blocks of coordinates and vectors that fit in the cache."""
    total, part = np.zeros(vectors[0].size), np.empty(BLOCK)
    reader = BlockReader(AT_ONCE, BLOCK)
    for first in range(0, len(vectors), AT_ONCE):
        some, factors = vectors[first : first + AT_ONCE], np.array(weights[first : first + AT_ONCE])
        for start in range(0, total.size, BLOCK):
            block = total[start : start + BLOCK]
            rows = reader.read(some, start, start + block.size)
            block += np.dot(factors, rows, out=part[: block.size])
    return total


def fold_mean(current: Adapter, given: Sequence[ClientUpdate], holders: bool) -> Adapter:
    """The mean of the vectors: exact where one factor alone was trained, as in all linear methods but `naive`."""
    return current.plus(mean_delta(current, given, holders))


def fold_svd(current: Adapter, given: Sequence[ClientUpdate], holders: bool) -> Adapter:
    """The best approximation, of the adapter's rank, of the mean product (FlexLoRA, Bai et al. 2024, arXiv:2402.11505).

    Components are in order of their singular values, so a client of smaller rank gets the largest. A's rows have the
    norm they have before training, even if the singular value is 0: such a component can still be trained.
    """
    products, schema = Products(current, given, component_weights(current.schema, given, holders)), current.schema
    parts: dict[Key, Wide] = {}
    for module in schema.modules:
        u, s, vt = products.total(module).truncated(schema.rank)
        a, b = np.zeros(schema.shape(module, "A")), np.zeros(schema.shape(module, "B"))
        a[: len(s)], b[:, : len(s)] = vt * ROW_NORM, u * (s / ROW_NORM)
        if len(s) < schema.rank:  # orthogonal rows, so that every component can still be trained
            whole, _ = np.linalg.qr(np.concatenate([vt, current.lora(module)[0].astype(np.float64)]).T)
            spare = whole.T[len(s) : schema.rank]
            a[len(s) : len(s) + len(spare)] = spare * ROW_NORM
        parts[module.name, "A"], parts[module.name, "B"] = a, b
    return Adapter.from_parts(schema, parts)


def fold_fedex(current: Adapter, given: Sequence[ClientUpdate], holders: bool) -> Adapter:
    """The mean of A and of B; what the mean product has more than theirs goes into W (FedEx-LoRA, eq. 6)."""
    means = fold_mean(current, given, holders)
    return _with_rest_in_residual(means, Products(current, given, component_weights(current.schema, given, holders)))


def fold_flora(current: Adapter, given: Sequence[ClientUpdate], holders: bool) -> Adapter:
    """All of the mean product goes into W, and A and B are reset (FLoRA: stacked factors, merged into the base).

    Each round draws another A: with one and the same, all rounds would move the model in the same few directions.
    """
    seed = derived_seed(current.schema.seed, "flora", current.sha256)
    anew = Adapter.initial(replace(current.schema, seed=seed))
    parts = {**anew.parts(), **{key: part for key, part in current.parts().items() if key[1] == "W"}}
    anew = Adapter.from_parts(current.schema, parts)
    return _with_rest_in_residual(anew, Products(current, given, component_weights(current.schema, given, holders)))


def _with_rest_in_residual(adapter: Adapter, products: Products) -> Adapter:
    """Return `adapter` with a W that makes the whole exactly the target of the aggregation. Dense: out x in numbers per
    layer."""
    parts: dict[Key, npt.NDArray[np.floating]] = dict(adapter.parts())
    for module in adapter.schema.modules:
        a, b = (factor.astype(np.float64) for factor in adapter.lora(module))
        rest = products.total(module).dense() - b @ a
        parts[module.name, "W"] = parts[module.name, "W"] + adapter.schema.scale * rest
    return Adapter.from_parts(adapter.schema, parts)


AGGREGATORS: Mapping[str, Aggregator] = MappingProxyType(
    {name: fold_mean for name, method in METHODS.built_in.items() if method.linear}
    | {"svd": fold_svd, "fedex": fold_fedex, "flora": fold_flora}
)
"""How the server aggregates, by built-in method."""


def aggregator(name: str) -> Aggregator:
    """Return a method's aggregation: of a plug-in's method its own, or the mean where it is linear."""
    return AGGREGATORS.get(name) or METHODS[name].aggregate or fold_mean
