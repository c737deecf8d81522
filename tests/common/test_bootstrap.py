"""Paired differences over seeds and problems: golden numbers, symmetry, and how often the interval is right."""

import numpy as np
import pytest
from fedgrpo.common.analysis import bootstrap
from fedgrpo.common.analysis.bootstrap import best_of, paired_difference, worst_of
from hypothesis import given, settings
from hypothesis import strategies as st

ARM = np.array([[1, 1, 0, 1, 1, 0], [1, 0, 0, 1, 1, 1.0]])
BASE = np.array([[1, 0, 0, 1, 0, 0], [0, 0, 1, 1, 1, 0.0]])


def test_a_difference_on_two_seeds_and_six_problems():
    found = paired_difference(ARM, BASE)
    assert found.mean == pytest.approx(3 / 12)
    assert found.by_seed == pytest.approx((2 / 6, 1 / 6))
    assert (found.low, found.high) == pytest.approx((-1 / 6, 4 / 6))  # and of all 4 x 6^6 resamplings, counted out
    assert not found.found


def test_the_interval_is_that_of_a_bootstrap_written_out_as_loops():
    rng, draws = np.random.default_rng(1), []
    for _ in range(4000):
        seeds, problems = rng.integers(0, 2, 2), rng.integers(0, 6, 6)
        draws.append(np.mean([[ARM[s, p] - BASE[s, p] for p in problems] for s in seeds]))
    low, high = np.quantile(draws, [0.025, 0.975])
    found = paired_difference(ARM, BASE)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.05)


@st.composite
def pairs(draw):
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 30)))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    return rng.integers(0, 2, shape).astype(float), rng.integers(0, 2, shape).astype(float)


@settings(max_examples=15, deadline=None)
@given(pairs())
def test_swapping_the_arms_mirrors_the_interval(pair):
    there, back = paired_difference(*pair), paired_difference(*reversed(pair))
    assert there.mean == pytest.approx(-back.mean, abs=1e-12)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=1e-12)
    assert there.by_seed == pytest.approx([-d for d in back.by_seed])
    assert there.low - 1e-12 <= there.mean <= there.high + 1e-12


@settings(max_examples=10, deadline=None)
@given(pairs())
def test_an_arm_does_not_differ_from_itself_and_the_same_outcomes_have_the_same_interval(pair):
    same = paired_difference(pair[0], pair[0])
    assert (same.mean, same.low, same.high, same.found) == (0.0, 0.0, 0.0, False)
    assert paired_difference(*pair) == paired_difference(*pair)


def test_a_problem_that_differs_under_every_seed_is_one_observation_and_not_one_per_seed():
    one = np.zeros((1, 40))
    one[0, :8] = 1.0
    single = paired_difference(one, np.zeros_like(one))
    thrice = paired_difference(np.repeat(one, 3, axis=0), np.zeros((3, 40)))
    assert thrice.high - thrice.low > 0.9 * (single.high - single.low)


@pytest.mark.parametrize(("seed_sd", "problem_sd"), [(0.0, 0.0), (0.03, 0.05), (0.01, 0.4)])
def test_the_interval_covers_the_truth_at_least_as_often_as_it_says(monkeypatch, seed_sd, problem_sd):
    monkeypatch.setattr(bootstrap, "DRAWS", 1000)

    def outcomes(rng, seeds, problems):
        hard = rng.beta(2, 1, problems)
        arm = hard + 0.05 + rng.normal(0, problem_sd, problems) + rng.normal(0, seed_sd, (seeds, 1))
        baseline = hard + rng.normal(0, seed_sd, (seeds, 1))
        return [(rng.random((seeds, problems)) < chance).astype(float) for chance in (arm, baseline)]

    truth = np.mean([np.subtract(*outcomes(np.random.default_rng(i), 20, 4000)).mean() for i in range(30)])
    rng, covered = np.random.default_rng(99), 0
    for _ in range(100):
        found = paired_difference(*outcomes(rng, 3, 60))
        covered += found.low <= truth <= found.high
    assert covered >= 93


def test_what_cannot_be_paired_is_refused():
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_difference(np.zeros((2, 3)), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_difference(np.zeros((0, 3)), np.zeros((0, 3)))


def test_the_best_and_the_worst_client_are_chosen_for_each_seed():
    clients = np.array([[[1, 0, 0], [1, 1, 0]], [[1, 1, 1], [0, 0, 1]]], dtype=float)
    assert best_of(clients).tolist() == [[1, 1, 0], [1, 1, 1]]
    assert worst_of(clients).tolist() == [[1, 0, 0], [0, 0, 1]]
