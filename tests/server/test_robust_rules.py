"""Robust rules: what a few hostile clients can do to a round."""

import numpy as np
import pytest
from fedgrpo.common.adapter.adapter import Adapter
from fedgrpo.common.aggregation import robust as rules
from fedgrpo.common.aggregation.robust import RULES
from fedgrpo.common.errors import ConfigError
from fedgrpo.common.settings.aggregation import Aggregation, updates_needed
from fedgrpo.server.aggregation.robust import gram
from folds import folded, schema
from hypothesis import given
from hypothesis import strategies as st

SEEDS = st.integers(0, 2**31 - 1)

ROBUST = [name for name, rule in RULES.built_in.items() if rule.reweigh or rule.combine]


def test_rules_by_hand():
    block = np.array([[1.0], [2.0], [3.0], [100.0]])
    assert rules.trimmed_mean(block, 1).tolist() == [2.5]
    assert rules.median(block, 0).tolist() == [2.5]
    deltas = [np.float32([x]) for x in (0.0, 1.0, 2.0, 3.0, 50.0)]
    kept = rules.multi_krum(gram(deltas), np.full(5, 0.2), 1)
    assert kept.tolist() == pytest.approx([0.25, 0.25, 0.25, 0.25, 0.0])
    middle = rules.geometric_median(gram(deltas), np.full(5, 0.2), 0)
    assert float(middle @ [0, 1, 2, 3, 50]) == pytest.approx(2.0, abs=0.05)


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


def test_a_rule_or_optimizer_that_means_nothing_for_a_method_is_refused():
    with pytest.raises(ConfigError, match="no coordinates"):
        Aggregation(method="svd", rule="median")
    with pytest.raises(ConfigError, match="means nothing"):
        Aggregation(method="flora", server_optimizer="adam")
    with pytest.raises(ConfigError, match="hold it still"):
        Aggregation(method="rolora", server_optimizer="momentum")
    Aggregation(method="svd", rule="multi-krum")
