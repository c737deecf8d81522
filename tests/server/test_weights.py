"""What each client counts: steps, clips, weights, cap and floor."""

import math

import numpy as np
import pytest
from fedgrpo.common.adapter.adapter import Adapter, clip_norm, l2_norm
from fedgrpo.common.aggregation.weights import WEIGHTS as WEIGHT_RULES
from fedgrpo.common.messages.messages import Update
from fedgrpo.common.messages.metric_names import TRAIN_METRICS
from fedgrpo.server.aggregation.aggregate import clip_factors, step_factors
from fedgrpo.server.aggregation.weights import capped, raw_weight, share_cap, shares
from folds import folded, scalar
from hypothesis import given
from hypothesis import strategies as st

SEEDS = st.integers(0, 2**31 - 1)
WEIGHTS = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3), st.just(0.0) | st.floats(1e-3, 1e6), min_size=1, max_size=8
)


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


def test_no_weight_however_small_breaks_the_sum_of_the_shares():
    found = shares({"tiny": 1e-310, **{f"c{k}": 4.0 for k in range(9)}}, 0.5)
    assert sum(found.values()) == pytest.approx(1)
    assert found["tiny"] == 0
