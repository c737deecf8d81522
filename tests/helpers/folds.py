"""Small adapters and deltas, and one aggregation of them, for the tests of aggregation."""

import numpy as np
from fedgrpo.common.adapter.adapter import Adapter
from fedgrpo.common.adapter.methods import METHODS
from fedgrpo.common.adapter.schema import AdapterSchema, Module
from fedgrpo.common.settings.aggregation import Aggregation
from fedgrpo.server.aggregation.aggregate import next_adapter
from fedgrpo.server.aggregation.products import ClientUpdate

MODULES = (Module("down", 9, 7), Module("up", 7, 8))


def schema(method="ffa", rank=4, modules=MODULES):
    size = 5 if method == "tiny" else 0
    return AdapterSchema(
        modules=modules, rank=rank, alpha=2 * rank, holds=METHODS[method].holds, seed=0, tiny_size=size
    )


def random_delta(own, method, rng):
    """What training leaves: numbers in the factors that are trained, zeros in the others."""
    parts = dict(Adapter(own, rng.normal(size=own.size).astype(np.float32)).parts())
    trained = METHODS[method].trains_in(1)
    return Adapter.from_parts(own, {k: p if k[1] in trained else 0 * p for k, p in parts.items()}).vector


def trained_start(own, rng):
    """An adapter as it may be in the middle of a run."""
    return Adapter.initial(own).plus(rng.normal(size=own.size) / 3)


def scalar(method="ffa"):
    return schema(method, rank=1, modules=(Module("m", 1, 1),))


def folded(start, deltas, weights=None, factors=None, schemas=None, memory=None, **settings):
    weights = weights or dict.fromkeys(deltas, 1 / len(deltas))
    given_ = {
        name: ClientUpdate(
            weights[name], (factors or {}).get(name, 1.0), (schemas or {}).get(name, start.schema), delta
        )
        for name, delta in deltas.items()
    }
    return next_adapter(start, memory or {}, given_, Aggregation(**{"method": "ffa", **settings}))


def dense(adapter):
    """The whole change of every layer, as one float64 vector: W + scale B A."""
    found = []
    for module in adapter.schema.modules:
        a, b = (factor.astype(np.float64) for factor in adapter.lora(module))
        whole = adapter.schema.scale * b @ a
        if "W" in adapter.schema.holds:
            whole = whole + adapter.parts()[module.name, "W"]
        found.append(whole.reshape(-1))
    return np.concatenate(found)


def wanted(start, deltas, weights, schemas=None):
    """Where an exact fold leads, from dense products: W + s sum_k w_k (B_k A_k - B A) + s B A."""
    target = dense(start)
    for name, delta in deltas.items():
        own = (schemas or {}).get(name, start.schema)
        before = start.fitted(own)
        target = target + weights[name] * (dense(before.plus(delta)) - dense(before))
    return target
