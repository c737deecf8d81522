"""From many updates to one: exactness, order, ranks, and the aggregation of each method."""

import itertools
import os

import numpy as np
import pytest
from fedgrpo.common.adapter.adapter import Adapter
from fedgrpo.common.adapter.methods import METHODS
from fedgrpo.common.adapter.schema import Module
from fedgrpo.common.aggregation import robust as rules
from fedgrpo.common.settings.aggregation import Aggregation
from fedgrpo.server.aggregation.aggregate import next_adapter
from fedgrpo.server.aggregation.lowrank import Product
from fedgrpo.server.aggregation.methods import mean_delta
from fedgrpo.server.aggregation.products import ClientUpdate
from fedgrpo.server.aggregation.robust import by_coordinate, gram
from fedgrpo.server.aggregation.weights import shares
from fedgrpo.server.run.store import Store
from folds import MODULES, dense, folded, random_delta, scalar, schema, trained_start, wanted
from hypothesis import given
from hypothesis import strategies as st

EXACT = ("ffa", "fedex", "flora", "rolora", "xs", "tiny")
SEEDS = st.integers(0, 2**31 - 1)


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


def test_the_server_goes_on_from_the_unrounded_adapter():
    own = schema("ffa")
    delta = {"a": np.full(own.size, 1e-3, np.float32)}
    adapter, memory = Adapter.initial(own).plus(np.random.default_rng(0).normal(size=own.size)), {}
    exact = adapter
    for _ in range(20):  # steps smaller than a step of the grid
        given_ = {"a": ClientUpdate(1.0, 1.0, own, delta["a"])}
        step = next_adapter(adapter, memory, given_, Aggregation(method="ffa"), "int4")
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
