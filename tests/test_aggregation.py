"""From many updates to one: exactness, order, weights."""

import math

import numpy as np
import pytest
from fedgrpo.common.adapter import Adapter, AdapterSchema, Module, clip_norm, l2_norm
from fedgrpo.common.protocol import Update
from fedgrpo.common.settings import Aggregation
from fedgrpo.server.aggregation import next_adapter, raw_weight, shares
from hypothesis import given
from hypothesis import strategies as st

MODULE = Module("layer", 6, 5)
WEIGHTS = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3), st.just(0.0) | st.floats(1e-3, 1e6), min_size=1, max_size=8
)


def schema(trains):
    return AdapterSchema(modules=(MODULE,), rank=3, alpha=3, trains=trains, seed=0)


def random_deltas(own, names, seed):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=own.size).astype(np.float32) for name in names}


def fold(start, weights, delta_of, steps=4, **settings):
    return next_adapter(start, weights, dict.fromkeys(weights, steps), delta_of, Aggregation(**settings))


def test_deltas_of_different_numbers_of_steps_are_normalised():
    """FedNova by hand: (1/2 * 2 + 1/2 * 6) steps times the mean of 4 / 2 and 6 / 6 a step."""
    own = AdapterSchema(modules=(Module("m", 1, 1),), rank=1, alpha=1, trains=("B",), seed=0)
    deltas = {"fast": np.float32([6]), "slow": np.float32([4])}
    weights, steps = {"fast": 0.5, "slow": 0.5}, {"fast": 6, "slow": 2}
    moved = next_adapter(Adapter.initial(own), weights, steps, deltas.__getitem__, Aggregation())
    assert moved.vector.tolist() == [4 * 1.5]
    ignored = next_adapter(Adapter.initial(own), {"fast": 1.0, "slow": 0.0}, steps, deltas.__getitem__, Aggregation())
    assert ignored.vector.tolist() == [6.0]


def test_the_mean_of_three_numbers():
    own = AdapterSchema(modules=(Module("m", 1, 1),), rank=1, alpha=1, trains=("B",), seed=0)
    deltas = {"a": np.float32([1]), "b": np.float32([2]), "c": np.float32([6])}
    weights = shares({"a": 1.0, "b": 1.0, "c": 2.0}, 1.0)
    assert weights == {"a": 0.25, "b": 0.25, "c": 0.5}
    assert fold(Adapter.initial(own), weights, deltas.__getitem__).vector.tolist() == [3.75]


def product(adapter):
    tensors = adapter.tensors()
    return tensors[MODULE, "B"].astype(np.float64) @ tensors[MODULE, "A"].astype(np.float64)


def test_the_mean_of_b_is_the_mean_of_the_products_and_the_mean_of_both_is_not():
    weights = {"a": 0.5, "b": 0.3, "c": 0.2}
    errors = {}
    for method, trains in (("ffa", ("B",)), ("naive", ("A", "B"))):
        own = schema(trains)
        start, deltas = Adapter.initial(own), random_deltas(own, weights, 1)
        folded = product(fold(start, weights, deltas.__getitem__, method=method))
        exact = sum(share * product(start.plus(deltas[name])) for name, share in weights.items())
        errors[method] = np.linalg.norm(folded - exact) / np.linalg.norm(exact)
    assert errors["ffa"] < 1e-6
    assert errors["naive"] > 0.1


@given(st.permutations(["a", "b", "c", "d"]), st.integers(0, 2**31 - 1))
def test_the_order_of_arrival_changes_no_bit(order, seed):
    own = schema(("A", "B"))
    deltas, start = random_deltas(own, "abcd", seed), Adapter.initial(own)
    weights = dict(zip("abcd", (0.1, 0.2, 0.3, 0.4), strict=True))
    shuffled = {name: weights[name] for name in order}
    one = fold(start, weights, deltas.__getitem__)
    assert fold(start, shuffled, deltas.__getitem__).sha256 == one.sha256


@given(st.integers(0, 2**31 - 1), st.floats(0.1, 1e3))
def test_one_client_is_the_identity(seed, weight):
    own = schema(("B",))
    (delta,) = random_deltas(own, "a", seed).values()
    weights = shares({"a": weight}, 0.5)
    moved = fold(Adapter.initial(own), weights, lambda _: delta)
    assert (moved.vector == Adapter.initial(own).plus(delta).vector).all()


def test_without_any_weight_the_adapter_stays():
    own = schema(("B",))
    start = Adapter.initial(own)
    weights = shares({"a": 0.0, "b": 0.0}, 0.5)
    moved = fold(start, weights, random_deltas(own, "ab", 0).__getitem__)
    assert moved.sha256 == start.sha256


@given(WEIGHTS, st.floats(0.05, 1.0))
def test_shares_sum_to_one_keep_the_cap_and_do_not_depend_on_the_scale(weights, cap):
    found = shares(weights, cap)
    active = [name for name, weight in weights.items() if weight > 0]
    if not active or sum(weights.values()) == 0:
        assert set(found.values()) == {0.0}
        return
    assert math.fsum(found.values()) == pytest.approx(1)
    assert max(found.values()) <= max(cap, 1 / len(active)) + 1e-9
    assert all(found[name] == 0 for name in weights if name not in active)
    for name, share in shares({n: 8 * w for n, w in weights.items()}, cap).items():
        assert share == pytest.approx(found[name], abs=1e-9)


def test_a_capped_client_gives_to_the_others_in_proportion():
    assert shares({"big": 90, "mid": 6, "small": 3}, 0.5) == pytest.approx({"big": 0.5, "mid": 1 / 3, "small": 1 / 6})


def test_effective_groups_count_for_a_client_and_not_its_examples():
    update = Update(delta=np.zeros(1, np.float32), num_steps=4, num_examples=16, metrics={"groups/effective": 3.0})
    assert [raw_weight(update, rule) for rule in ("effective-groups", "examples", "uniform")] == [3.0, 16.0, 1.0]


@given(st.integers(0, 2**31 - 1), st.floats(1e-3, 1e3))
def test_clipping_shortens_to_the_limit_and_keeps_the_direction(seed, limit):
    delta = np.random.default_rng(seed).normal(size=50).astype(np.float32)
    clipped = clip_norm(delta, limit)
    assert l2_norm(clipped) <= limit * (1 + 1e-5)
    cosine = float(clipped @ delta) / (l2_norm(clipped) * l2_norm(delta))
    assert cosine == pytest.approx(1, abs=1e-5)
    if l2_norm(delta) <= limit:
        assert (clipped == delta).all()
