"""From many updates to one: exactness, order, ranks, weights, robust rules, the server's optimizers."""

import itertools
import math
import os

import numpy as np
import pytest
from fedgrpo.common.adapter.adapter import Adapter, clip_norm, l2_norm
from fedgrpo.common.adapter.methods import METHODS
from fedgrpo.common.adapter.schema import AdapterSchema, Module
from fedgrpo.common.aggregation import robust as rules
from fedgrpo.common.aggregation.robust import RULES
from fedgrpo.common.aggregation.weights import WEIGHTS as WEIGHT_RULES
from fedgrpo.common.errors import ConfigError
from fedgrpo.common.messages.messages import Update
from fedgrpo.common.messages.metric_names import TRAIN_METRICS
from fedgrpo.common.settings.aggregation import Aggregation, updates_needed
from fedgrpo.server.aggregation.aggregate import clip_factors, next_adapter, step_factors
from fedgrpo.server.aggregation.lowrank import Product
from fedgrpo.server.aggregation.methods import mean_delta
from fedgrpo.server.aggregation.products import ClientUpdate
from fedgrpo.server.aggregation.robust import by_coordinate, gram
from fedgrpo.server.aggregation.server_optimizers import SERVER_OPTIMIZERS
from fedgrpo.server.aggregation.weights import capped, raw_weight, share_cap, shares
from fedgrpo.server.run.store import Store
from hypothesis import given
from hypothesis import strategies as st

MODULES = (Module("down", 9, 7), Module("up", 7, 8))
EXACT = ("ffa", "fedex", "flora", "rolora", "xs", "tiny")
SEEDS = st.integers(0, 2**31 - 1)
WEIGHTS = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3), st.just(0.0) | st.floats(1e-3, 1e6), min_size=1, max_size=8
)


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


@pytest.mark.parametrize("clients", [1, 8, 11])
def test_the_mean_from_disk_is_that_of_blocks_of_eight_bit_for_bit(tmp_path, clients):
    """Written out: what a run's adapter hash depends on. The last block and the last eight are not full."""
    own, store = schema(rank=4, modules=(Module("wide", 40_000, 30_000),)), Store(tmp_path)
    rng = np.random.default_rng(0)
    weights, deltas = rng.random(clients), [rng.normal(size=own.size).astype(np.float32) for _ in range(clients)]
    wanted = np.zeros(own.size)
    for first in range(0, clients, 8):
        for start in range(0, own.size, 1 << 16):
            rows = np.stack([delta[start : start + (1 << 16)] for delta in deltas[first : first + 8]])
            wanted[start : start + (1 << 16)] += weights[first : first + 8] @ rows.astype(np.float64)
    for k, delta in enumerate(deltas):
        store.keep_update(f"c{k:02d}", delta)
    for vectors in (deltas, [store.kept_update(f"c{k:02d}") for k in range(clients)]):
        given_ = [ClientUpdate(weight, 1.0, own, vector) for weight, vector in zip(weights, vectors, strict=True)]
        assert np.array_equal(mean_delta(Adapter.initial(own), given_, holders=False), wanted)
        stacked = np.stack(deltas).astype(np.float64)
        assert gram(vectors) == pytest.approx(stacked @ stacked.T)
        assert np.array_equal(
            by_coordinate(rules.median, vectors, weights, 0), np.median(stacked * weights[:, None], 0)
        )


def test_an_update_on_disk_that_has_lost_its_end_is_refused(tmp_path):
    store = Store(tmp_path)
    store.keep_update("a", np.ones(100, np.float32))
    kept = store.kept_update("a")
    os.truncate(store.files.update("a"), 396)
    with pytest.raises(OSError, match="lost 4 bytes"):
        kept[:]
    with pytest.raises(OSError, match="lost 4 bytes"):
        kept.read_into(90, np.empty(10, dtype="<f4"))


def folded(start, deltas, weights=None, factors=None, schemas=None, memory=None, **settings):
    weights = weights or dict.fromkeys(deltas, 1 / len(deltas))
    given_ = {
        name: ClientUpdate(
            weights[name], (factors or {}).get(name, 1.0), (schemas or {}).get(name, start.schema), delta
        )
        for name, delta in deltas.items()
    }
    return next_adapter(start, memory or {}, given_, Aggregation(**settings))


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


# What a fold is


def test_the_mean_of_three_numbers():
    deltas = {"a": np.float32([1]), "b": np.float32([2]), "c": np.float32([6])}
    weights = shares({"a": 1.0, "b": 1.0, "c": 2.0}, 1.0)
    assert weights == {"a": 0.25, "b": 0.25, "c": 0.5}
    assert folded(Adapter.initial(scalar()), deltas, weights).adapter.vector.tolist() == [3.75]


@pytest.mark.parametrize("method", EXACT)
@given(SEEDS, st.integers(1, 5))
def test_an_exact_method_gives_the_mean_of_the_products(method, seed, clients):
    rng, own = np.random.default_rng(seed), schema(method)
    start = trained_start(own, rng)
    deltas = {f"c{k}": random_delta(own, method, rng) for k in range(clients)}
    weights = shares({name: float(rng.uniform(0.1, 1)) for name in deltas}, 1.0)
    step = folded(start, deltas, weights, method=method)
    target = wanted(start, deltas, weights)
    moved = np.linalg.norm(target - dense(start))
    assert np.linalg.norm(dense(step.adapter) - target) < 1e-5 * moved
    assert step.error < 1e-5


@given(SEEDS)
def test_svd_is_the_best_approximation_of_its_rank_and_says_how_far_it_is(seed):
    rng, own = np.random.default_rng(seed), schema("svd", rank=3)
    start = trained_start(own, rng)
    deltas = {name: random_delta(own, "svd", rng) for name in "abc"}
    weights = {"a": 0.5, "b": 0.3, "c": 0.2}
    step = folded(start, deltas, weights, method="svd")
    target, best = wanted(start, deltas, weights), []
    cut = 0
    for module in MODULES:
        size = module.out_features * module.in_features
        u, s, vt = np.linalg.svd(target[cut : cut + size].reshape(module.out_features, -1), full_matrices=False)
        best.append(((u[:, :3] * s[:3]) @ vt[:3]).reshape(-1))
        cut += size
    np.testing.assert_allclose(dense(step.adapter), np.concatenate(best), atol=1e-5 * np.linalg.norm(target))
    lost = np.linalg.norm(np.concatenate(best) - target) / np.linalg.norm(target - dense(start))
    assert step.error == pytest.approx(lost, rel=1e-3)


def test_svd_of_products_that_share_a_subspace_is_exact():
    own = schema("svd")
    start = Adapter.initial(own)
    parts = {key: np.zeros_like(part) for key, part in start.parts().items()}
    rng = np.random.default_rng(0)
    deltas = {
        name: Adapter.from_parts(
            own, {k: p if k[1] == "A" else rng.normal(size=p.shape) for k, p in parts.items()}
        ).vector
        for name in "abc"
    }  # A stays for all
    assert folded(start, deltas, method="svd").error < 1e-6


def test_the_mean_of_both_factors_is_not_the_mean_of_the_products():
    rng, own = np.random.default_rng(1), schema("naive")
    start = trained_start(own, rng)
    deltas = {name: random_delta(own, "naive", rng) for name in "abc"}
    step = folded(start, deltas, method="naive")
    target = wanted(start, deltas, dict.fromkeys("abc", 1 / 3))
    error = np.linalg.norm(dense(step.adapter) - target) / np.linalg.norm(target - dense(start))
    assert error > 0.1
    assert step.error == pytest.approx(error, rel=1e-4)


def test_naive_is_what_it_says_by_hand():
    """A 1 -> (2, 4), B 0 -> (1, 3): means 3 and 2, so B A = 6; the mean of the products is (2 + 12) / 2 = 7."""
    own = scalar("naive")
    start = Adapter.from_parts(own, {("m", "A"): np.ones((1, 1)), ("m", "B"): np.zeros((1, 1))})
    deltas = {"a": np.float32([1, 1]), "b": np.float32([3, 3])}
    step = folded(start, deltas, method="naive")
    assert step.adapter.vector.tolist() == [3.0, 2.0]
    assert step.error == pytest.approx(1 / 7)
    assert dense(
        folded(Adapter.initial(scalar("flora")), {"a": np.float32([0, 2, 0])}, method="flora").adapter
    ).shape == (1,)


@pytest.mark.parametrize("method", METHODS)
@given(st.permutations(["a", "b", "c", "d"]), SEEDS)
def test_the_order_of_arrival_changes_no_bit(method, order, seed):
    rng, own = np.random.default_rng(seed), schema(method)
    start, weights = trained_start(own, rng), dict(zip("abcd", (0.1, 0.2, 0.3, 0.4), strict=True))
    deltas = {name: random_delta(own, method, rng) for name in "abcd"}
    one = folded(start, deltas, weights, method=method)
    other = folded(start, {name: deltas[name] for name in order}, weights, method=method)
    assert (one.adapter.sha256, one.error) == (other.adapter.sha256, other.error)


@pytest.mark.parametrize("method", METHODS)
@given(SEEDS)
def test_one_client_is_the_identity(method, seed):
    rng, own = np.random.default_rng(seed), schema(method)
    start, delta = trained_start(own, rng), random_delta(own, method, rng)
    step = folded(start, {"a": delta}, shares({"a": 7.0}, 0.5), method=method)
    reached = dense(start.plus(delta))
    np.testing.assert_allclose(dense(step.adapter), reached, atol=2e-6 * np.linalg.norm(reached))
    if METHODS[method].linear:
        assert (step.adapter.vector == start.plus(delta).vector).all()


@pytest.mark.parametrize("method", METHODS)
def test_without_any_weight_or_any_movement_the_adapter_stays(method):
    rng, own = np.random.default_rng(0), schema(method)
    start = trained_start(own, rng)
    deltas = {name: random_delta(own, method, rng) for name in "ab"}
    assert folded(start, deltas, shares({"a": 0.0, "b": 0.0}, 0.5), method=method).adapter.sha256 == start.sha256
    still = folded(start, {"a": np.zeros(own.size, np.float32)}, method=method)
    np.testing.assert_allclose(dense(still.adapter), dense(start), atol=1e-5)
    assert still.error == 0


@given(SEEDS)
def test_a_component_that_the_svd_leaves_empty_can_still_be_trained(seed):
    own = schema("svd")
    step = folded(Adapter.initial(own), {"a": np.zeros(own.size, np.float32)}, method="svd")
    for module in MODULES:
        a, b = step.adapter.lora(module)
        assert not b.any()
        np.testing.assert_allclose(np.linalg.norm(a, axis=1), 3**-0.5, rtol=1e-5)


def test_where_few_components_are_left_the_others_can_still_be_trained():
    own = schema("svd")
    small = own.at_rank(1)
    rng = np.random.default_rng(0)
    step = folded(Adapter.initial(own), {"a": random_delta(small, "svd", rng)}, schemas={"a": small}, method="svd")
    for module in MODULES:
        a, b = step.adapter.lora(module)
        assert (np.linalg.norm(a, axis=1) > 0.5).all()
        assert b[:, 0].any()
        assert not b[:, 1:].any()


# Mixed ranks


@pytest.mark.parametrize("method", ["ffa", "svd", "fedex", "flora"])
@given(SEEDS)
def test_mixed_ranks_give_the_mean_of_what_each_moved(method, seed):
    rng, own = np.random.default_rng(seed), schema(method)
    schemas = {"four": own, "two": own.at_rank(2), "one": own.at_rank(1)}
    start, weights = trained_start(own, rng), {"four": 0.5, "two": 0.3, "one": 0.2}
    deltas = {name: random_delta(one, method, rng) for name, one in schemas.items()}
    step = folded(start, deltas, weights, schemas=schemas, method=method)
    target = wanted(start, deltas, weights, schemas)
    gap = np.linalg.norm(dense(step.adapter) - target) / np.linalg.norm(target - dense(start))
    assert step.error == pytest.approx(gap, abs=1e-5)
    assert gap < 1e-5 or method == "svd"


def test_what_only_some_can_train_is_not_diluted_among_its_holders():
    own = schema("ffa", rank=2, modules=(Module("m", 3, 1),))
    schemas = {"large": own, "small": own.at_rank(1)}
    deltas = {"large": np.float32([4, 4]), "small": np.float32([2])}
    start = Adapter.initial(own)
    assert folded(start, deltas, schemas=schemas).adapter.vector.tolist() == [3.0, 2.0]
    assert folded(start, deltas, schemas=schemas, rank_weights="holders").adapter.vector.tolist() == [3.0, 4.0]


@pytest.mark.parametrize("method", ["svd", "fedex"])
def test_holders_of_a_component_make_up_for_those_without_it_in_the_product(method):
    """Shares .5, .3, .2 of ranks 4, 2, 1: the weights of a component are scaled to the sum of all shares."""
    own, rng = schema(method), np.random.default_rng(5)
    share, ranks = {"a": 0.5, "b": 0.3, "c": 0.2}, {"a": 4, "b": 2, "c": 1}
    weights = {"a": [0.5, 0.5 / 0.8, 1, 1], "b": [0.3, 0.3 / 0.8], "c": [0.2]}
    schemas = {name: own.at_rank(rank) for name, rank in ranks.items()}
    start, deltas = trained_start(own, rng), {n: random_delta(each, method, rng) for n, each in schemas.items()}
    found = folded(start, deltas, share, schemas=schemas, method=method, rank_weights="holders").adapter
    for module in MODULES:
        a, b = (factor.astype(np.float64) for factor in start.lora(module))
        wanted = b @ a
        for name, each in schemas.items():
            moved = Adapter(each, deltas[name]).lora(module)
            for i, weight in enumerate(weights[name]):
                wanted += weight * (np.outer(b[:, i] + moved[1][:, i], a[i] + moved[0][i]) - np.outer(b[:, i], a[i]))
        after = found.lora(module)[1].astype(np.float64) @ found.lora(module)[0]
        if method == "fedex":
            before, rest = (adapter.parts()[module.name, "W"].astype(np.float64) for adapter in (start, found))
            np.testing.assert_allclose(own.scale * after + rest, own.scale * wanted + before, atol=1e-4)
        else:
            u, s, vt = np.linalg.svd(wanted)
            np.testing.assert_allclose(after, (u[:, :4] * s[:4]) @ vt[:4], atol=1e-4)


def test_components_without_a_singular_value_have_rows_orthogonal_to_all_others():
    """From B = 0, a client of rank 2 moves two of four components; the others must be trainable, and new directions."""
    own, rng = schema("svd"), np.random.default_rng(6)
    small = own.at_rank(2)
    step = folded(Adapter.initial(own), {"a": random_delta(small, "svd", rng)}, schemas={"a": small}, method="svd")
    for module in MODULES:
        a, b = (factor.astype(np.float64) for factor in step.adapter.lora(module))
        np.testing.assert_allclose(a @ a.T, np.eye(4) / 3, atol=1e-6)
        assert np.linalg.matrix_rank(b, tol=1e-6) == 2
        assert not b[:, 2:].any()


def test_a_client_of_smaller_rank_is_given_the_largest_components():
    rng, own = np.random.default_rng(3), schema("svd")
    step = folded(trained_start(own, rng), {n: random_delta(own, "svd", rng) for n in "ab"}, method="svd")
    small = step.adapter.fitted(own.at_rank(2))
    for module in MODULES:
        a, b = step.adapter.lora(module)
        u, s, vt = np.linalg.svd(b.astype(np.float64) @ a)
        best = (u[:, :2] * s[:2]) @ vt[:2]
        left, right = small.lora(module)
        np.testing.assert_allclose(right @ left, best, atol=1e-4)
    assert small.schema.scale == own.scale


# Steps, clips, weights


def test_deltas_of_different_numbers_of_steps_are_normalised():
    """FedNova by hand: (1/2 * 2 + 1/2 * 6) steps times the mean of 4 / 2 and 6 / 6 a step."""
    deltas, weights = {"fast": np.float32([6]), "slow": np.float32([4])}, {"fast": 0.5, "slow": 0.5}
    factors = step_factors(weights, {"fast": 6, "slow": 2})
    assert folded(Adapter.initial(scalar()), deltas, weights, factors).adapter.vector.tolist() == [
        pytest.approx(4 * 1.5)
    ]
    assert step_factors({"fast": 1.0, "slow": 0.0}, {"fast": 6, "slow": 2})["fast"] == 1.0


def test_a_clip_to_the_median_shortens_the_long_ones_only():
    assert clip_factors({"a": 1.0, "b": 2.0, "c": 100.0}, 2.0) == {"a": 1.0, "b": 1.0, "c": 0.02}


@given(WEIGHTS, st.floats(0.05, 1.0), st.floats(0.0, 0.05))
def test_shares_sum_to_one_keep_cap_and_floor_and_do_not_depend_on_the_scale(weights, cap, floor):
    found = shares(weights, cap, floor)
    active = [name for name, share in found.items() if share > 0]
    if not any(weights.values()):
        assert set(found.values()) == {0.0}
        return
    assert math.fsum(found.values()) == pytest.approx(1)
    assert max(found.values()) <= share_cap(cap, len(active)) + 1e-9
    assert min(found[name] for name in active) >= min(floor, 1 / len(active)) - 1e-9
    assert all(weights[name] < 1e-5 * sum(weights.values()) for name in weights if name not in active)
    for name, share in shares({n: 8 * w for n, w in weights.items()}, cap, floor).items():
        assert share == pytest.approx(found[name], abs=1e-9)


def test_a_cap_does_not_make_few_clients_alike():
    assert shares({"a": 40, "b": 1}, 0.5) == pytest.approx({"a": 40 / 41, "b": 1 / 41})
    assert shares({"a": 40, "b": 1}, 0.6) == pytest.approx({"a": 0.6, "b": 0.4})
    assert shares({"a": 40, "b": 1, "c": 0}, 0.5) == pytest.approx({"a": 40 / 41, "b": 1 / 41, "c": 0})
    assert shares({"a": 40, "b": 2, "c": 1}, 0.3) == pytest.approx({"a": 2 / 3, "b": 2 / 9, "c": 1 / 9})


@pytest.mark.parametrize("huge", [1e4, 1e15, 1e300])
def test_a_huge_weight_counts_no_more_than_the_cap_and_makes_nobody_negligible(huge):
    weights = {"huge": huge, "a": 900.0, "b": 900.0, "c": 450.0}
    found = shares(weights, 0.5)
    assert found == pytest.approx({"huge": 0.5, "a": 0.2, "b": 0.2, "c": 0.1})
    assert capped(weights, found, 0.5) == {"huge": 0.5}


def test_a_cap_that_nobody_reaches_caps_nobody():
    weights = {"a": 5.0, "b": 5.0, "c": 4.0, "none": 0.0}
    assert capped(weights, shares(weights, 0.5), 0.5) == {}
    assert capped({"a": 1.0, "b": 1.0}, shares({"a": 1.0, "b": 1.0}, 0.5), 0.5) == {}
    assert capped({"none": 0.0}, {"none": 0.0}, 0.5) == {}


def test_a_capped_client_gives_to_the_others_in_proportion_and_a_floor_takes_from_them():
    assert shares({"big": 90, "mid": 6, "small": 3}, 0.5) == pytest.approx({"big": 0.5, "mid": 1 / 3, "small": 1 / 6})
    assert shares({"a": 6, "b": 3, "c": 0.001}, 1.0, 0.1) == pytest.approx({"a": 0.6, "b": 0.3, "c": 0.1})
    assert shares({"a": 1, "none": 0}, 1.0, 0.2) == {"a": 1.0, "none": 0.0}


def test_a_client_is_weighed_by_what_the_rule_names():
    told = {"groups/effective": 3.0, "tokens/total": 900.0, "reward/mean": 2.0, "reward/group-std": 0.5}
    update = Update(delta=np.zeros(1, np.float32), num_steps=4, num_examples=16, metrics=told)
    found = {rule: raw_weight(update, rule) for rule in ("effective-groups", "examples", "tokens", "uniform")}
    assert found == {"effective-groups": 3.0, "examples": 16.0, "tokens": 900.0, "uniform": 1.0}
    assert raw_weight(update, "relative-gain") == 1.0
    assert raw_weight(update, "relative-gain", (1.7, 1.9)) == pytest.approx(math.exp(0.2 / 0.5))
    assert raw_weight(update, "relative-gain", (9.0,)) == pytest.approx(math.exp(-1))


@pytest.mark.parametrize("rule", WEIGHT_RULES.built_in)
@given(st.data())
def test_every_weight_is_finite_and_not_negative_and_uses_the_metrics_that_it_names(rule, data):
    values = {name: data.draw(st.floats(0, 1e9)) for name in WEIGHT_RULES[rule].metrics}
    history = data.draw(st.lists(st.floats(-1e9, 1e9), max_size=5))
    update = Update(delta=np.zeros(1, np.float32), num_steps=4, num_examples=16, metrics=values)
    assert 0 <= raw_weight(update, rule, history) < math.inf
    assert set(WEIGHT_RULES[rule].metrics) <= set(TRAIN_METRICS)


@given(SEEDS, st.floats(0.01, 100))
def test_relative_gain_does_not_depend_on_the_units_of_the_reward(seed, unit):
    mean, spread, *history = np.random.default_rng(seed).uniform(0.1, 2, size=5).tolist()

    def weight(scale):
        told = {"reward/mean": scale * mean, "reward/group-std": scale * spread}
        update = Update(delta=np.zeros(1, np.float32), num_steps=1, num_examples=1, metrics=told)
        return raw_weight(update, "relative-gain", [scale * past for past in history])

    assert weight(unit) == pytest.approx(weight(1.0))


@given(SEEDS, st.floats(1e-3, 1e3))
def test_clipping_shortens_to_the_limit_and_keeps_the_direction(seed, limit):
    delta = np.random.default_rng(seed).normal(size=50).astype(np.float32)
    clipped = clip_norm(delta, limit)
    assert l2_norm(clipped) <= limit * (1 + 1e-5)
    cosine = float(clipped @ delta) / (l2_norm(clipped) * l2_norm(delta))
    assert cosine == pytest.approx(1, abs=1e-5)
    if l2_norm(delta) <= limit:
        assert (clipped == delta).all()


# Robust rules


def test_rules_by_hand():
    block = np.array([[1.0], [2.0], [3.0], [100.0]])
    assert rules.trimmed_mean(block, 1).tolist() == [2.5]
    assert rules.median(block, 0).tolist() == [2.5]
    deltas = [np.float32([x]) for x in (0.0, 1.0, 2.0, 3.0, 50.0)]
    kept = rules.multi_krum(gram(deltas), np.full(5, 0.2), 1)
    assert kept.tolist() == pytest.approx([0.25, 0.25, 0.25, 0.25, 0.0])
    middle = rules.geometric_median(gram(deltas), np.full(5, 0.2), 0)
    assert float(middle @ [0, 1, 2, 3, 50]) == pytest.approx(2.0, abs=0.05)


ROBUST = [name for name, rule in RULES.built_in.items() if rule.reweigh or rule.combine]


@pytest.mark.parametrize("rule", ROBUST)
@given(SEEDS)
def test_a_robust_rule_bounds_what_three_of_ten_can_do(rule, seed):
    honest_count = max(10, RULES[rule].updates_needed(3)) - 3
    rng, own = np.random.default_rng(seed), schema("ffa")
    centre = rng.normal(size=own.size)
    deltas = {f"honest-{k}": (centre + 0.1 * rng.normal(size=own.size)).astype(np.float32) for k in range(honest_count)}
    honest = np.mean(list(deltas.values()), axis=0)
    deltas |= {f"hostile-{k}": (-100 * centre).astype(np.float32) for k in range(3)}
    start = Adapter.initial(own)
    robust = folded(start, deltas, rule=rule, hostile=3).adapter.minus(start)
    plain = folded(start, deltas).adapter.minus(start)
    assert np.linalg.norm(robust - honest) < 0.35 * np.linalg.norm(honest)
    assert np.linalg.norm(plain - honest) > 10 * np.linalg.norm(honest)


@given(SEEDS)
def test_multi_krum_keeps_an_honest_majority_of_nearly_equal_deltas(seed):
    """Distances of long, nearly equal deltas: from float32 weights they came out negative elsewhere."""
    rng = np.random.default_rng(seed)
    long = 1e3 * rng.normal(size=4000)
    deltas = [(long + rng.normal(size=4000) * 1e-2).astype(np.float32) for _ in range(7)]
    deltas += [(long + 5.0).astype(np.float32)] * 2
    kept = rules.multi_krum(gram(deltas), np.full(9, 1 / 9), 2)
    assert (kept[:7] > 0).all()
    assert not kept[7:].any()


def test_the_scores_of_multi_krum_on_five_numbers():
    """0, 1, 3, 7, 15 with one hostile: each has the squares of its distances to the 5 - 1 - 2 = 2 nearest others."""
    numbers = np.array([0.0, 1.0, 3.0, 7.0, 15.0])
    inner = np.outer(numbers, numbers)
    assert rules.krum_scores(inner, 1).tolist() == [1 + 9, 1 + 4, 4 + 9, 16 + 36, 64 + 144]
    assert rules.multi_krum(inner, np.full(5, 0.2), 1).tolist() == [0.25, 0.25, 0.25, 0.25, 0.0]


def test_multi_krum_counts_neighbours_and_not_the_nearest_alone():
    """A pair far from the others is close to itself: by one neighbour it would stay, by two its farther one goes."""
    numbers = np.array([0.0, 1.0, 2.2, 10.0, 10.1])
    kept = rules.multi_krum(np.outer(numbers, numbers), np.full(5, 0.2), 1)
    assert kept.tolist() == [0.25, 0.25, 0.25, 0.25, 0.0]


def test_a_rule_says_how_many_updates_it_needs():
    assert [updates_needed(rule, 2) for rule in ("multi-krum", "trimmed-mean", "mean")] == [7, 5, 1]


def test_no_weight_however_small_breaks_the_sum_of_the_shares():
    found = shares({"tiny": 1e-310, **{f"c{k}": 4.0 for k in range(9)}}, 0.5)
    assert sum(found.values()) == pytest.approx(1)
    assert found["tiny"] == 0


def test_a_rule_or_optimizer_that_means_nothing_for_a_method_is_refused():
    with pytest.raises(ConfigError, match="no coordinates"):
        Aggregation(method="svd", rule="median")
    with pytest.raises(ConfigError, match="means nothing"):
        Aggregation(method="flora", server_optimizer="adam")
    with pytest.raises(ConfigError, match="hold it still"):
        Aggregation(method="rolora", server_optimizer="momentum")
    Aggregation(method="svd", rule="multi-krum")


# The server's optimizers


def steps_of(moves, **settings):
    adapter, memory, found = Adapter.initial(scalar()), {}, []
    for move in moves:
        step = folded(adapter, {"a": np.float32([move])}, memory=memory, **settings)
        found.append(float(step.adapter.minus(adapter)[0]))
        adapter, memory = step.adapter, step.memory
    return found


def test_the_servers_optimizers_by_hand():
    assert steps_of([1, 1], server_learning_rate=0.5) == pytest.approx([0.5, 0.5])
    assert steps_of([1, 0], server_optimizer="momentum", server_momentum=0.5) == pytest.approx([1, 1 / 3])
    assert steps_of([1, 0], server_optimizer="nesterov", server_momentum=0.5) == pytest.approx([1, 1 / 7])
    assert steps_of([2, 0], server_optimizer="adam", server_momentum=0.5) == pytest.approx([2, 2 / 3])


def test_adams_direction_by_hand():
    settings = Aggregation(server_optimizer="adam", server_momentum=0.5, server_beta2=0.75, server_epsilon=0.5)
    optimizer = SERVER_OPTIMIZERS["adam"]
    step, memory = optimizer.apply(np.array([3.0, 1.0, 0.0]), optimizer.init(3), settings)
    root_mean_square = math.sqrt(10 / 3)
    direction = [3 / (3 + root_mean_square / 2), 1 / (1 + root_mean_square / 2), 0]
    assert step == pytest.approx(np.array(direction) * root_mean_square / np.sqrt(np.mean(np.square(direction))))
    step, _ = optimizer.apply(np.array([-3.0, 1.0, 0.0]), memory, settings)
    assert np.linalg.norm(step) == pytest.approx(np.linalg.norm([-1.0, 1.0]))  # as long as the running mean, (-1, 1, 0)
    assert step[1] > -step[0] > 0  # what moves steadily moves further


@pytest.mark.parametrize("name", SERVER_OPTIMIZERS)
@pytest.mark.parametrize("scale", [1e-6, 1.0])
def test_every_optimizers_defaults_go_as_far_as_federated_averaging(name, scale):
    """With a steady delta of any size: ten times as far would destroy the policy, a tenth would not train it."""
    optimizer, settings = SERVER_OPTIMIZERS[name], Aggregation(server_optimizer=name)
    generator = np.random.default_rng(0)
    delta, memory, total = scale * generator.normal(size=1000), optimizer.init(1000), np.zeros(1000)
    for _ in range(8):
        step, memory = optimizer.apply(delta + 0.3 * scale * generator.normal(size=1000), memory, settings)
        total += step
    assert 0.8 < np.linalg.norm(total) / np.linalg.norm(8 * delta) < 1.25
    assert total @ delta / np.linalg.norm(total) / np.linalg.norm(delta) > 0.8


def test_the_server_goes_on_from_the_unrounded_adapter():
    own = schema("ffa")
    delta = {"a": np.full(own.size, 1e-3, np.float32)}
    adapter, memory = Adapter.initial(own).plus(np.random.default_rng(0).normal(size=own.size)), {}
    exact = adapter
    for _ in range(20):  # steps smaller than a step of the grid
        given_ = {"a": ClientUpdate(1.0, 1.0, own, delta["a"])}
        step = next_adapter(adapter, memory, given_, Aggregation(), "int4")
        adapter, memory, exact = step.adapter, step.memory, exact.plus(delta["a"])
    np.testing.assert_allclose(memory["master"], exact.vector, atol=1e-5)
    assert np.abs(adapter.vector - exact.vector).max() < 0.3


def test_a_product_knows_its_norm_and_best_approximation_without_being_multiplied_out():
    rng = np.random.default_rng(0)
    product = Product(rng.normal(size=(40, 6)), rng.normal(size=(6, 30)))
    assert product.norm == pytest.approx(np.linalg.norm(product.dense()))
    u, s, vt = product.truncated(6)
    np.testing.assert_allclose((u * s) @ vt, product.dense(), atol=1e-10)


def test_flora_draws_another_a_each_round_and_the_same_one_again():
    own = schema("flora")
    adapters = [Adapter.initial(own)]
    for _ in range(3):
        step = folded(adapters[-1], {"a": np.ones(own.size, np.float32)}, method="flora")
        again = folded(adapters[-1], {"a": np.ones(own.size, np.float32)}, method="flora")
        assert (step.adapter.vector == again.adapter.vector).all()
        adapters.append(step.adapter)
    drawn = [adapter.parts()[own.modules[0].name, "A"] for adapter in adapters]
    for one, other in itertools.combinations(drawn, 2):
        assert np.abs(one - other).max() > 0.01
