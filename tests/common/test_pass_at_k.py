"""pass@k, maj@k and the intervals of an evaluation."""

from itertools import combinations
from math import comb

import numpy as np
import pytest
from fedgrpo.common.analysis.pass_at_k import (
    NO_ANSWER,
    difference_interval,
    majority_at_k,
    mean_interval,
    pass_at_k,
    proportion_interval,
)
from fedgrpo.simulations.evaluation.measures import figure
from hypothesis import given
from hypothesis import strategies as st


def test_pass_at_k_is_chen_et_al_s():
    # n = 10, c = 3, k = 5: 1 - C(7, 5) / C(10, 5) = 1 - 21 / 252
    assert pass_at_k(10, np.array([3, 0, 10, 6]), 5) == pytest.approx([1 - 21 / 252, 0.0, 1.0, 1.0])
    assert pass_at_k(10, np.array([3]), 1) == pytest.approx([0.3])


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(drawn):
    n, c, k = drawn
    assert pass_at_k(n, np.array([c]), k)[0] == pytest.approx(1 - comb(n - c, k) / comb(n, k), abs=1e-12)


def test_pass_at_k_is_stable_where_binomials_overflow():
    found = pass_at_k(100_000, np.array([1]), 50_000)
    assert found == pytest.approx([0.5])


def test_pass_at_more_than_there_are_is_refused():
    for k, c in ((11, 3), (0, 3), (5, 11), (5, -1)):
        with pytest.raises(ValueError, match="pass@"):
            pass_at_k(10, np.array([c]), k)


def test_the_majority_of_all_samples():
    answers = np.array([[0, 0, 1], [0, 1, 1], [NO_ANSWER, NO_ANSWER, 0], [NO_ANSWER] * 3])
    right = np.array([[True, True, False], [True, False, False], [False, False, True], [False] * 3])
    assert majority_at_k(answers, right, 3).tolist() == [1.0, 0.0, 1.0, 0.0]


def test_among_equal_votes_chance_decides():
    answers, right = np.array([[0, 1]]), np.array([[True, False]])
    assert 0.35 < majority_at_k(answers, right, 2)[0] < 0.65
    assert 0.35 < majority_at_k(answers[:, ::-1], right[:, ::-1], 2)[0] < 0.65


def test_the_majority_of_some_is_the_mean_over_subsets():
    row = [0, 0, 1, 2, 1, 0, 2]  # 0 is right
    right = np.array([[answer == 0 for answer in row]])

    def chance(some):
        counts = {answer: some.count(answer) for answer in some}
        most = [answer for answer, count in counts.items() if count == max(counts.values())]
        return (0 in most) / len(most)

    subsets = [chance(list(some)) for some in combinations(row, 3)]
    assert majority_at_k(np.array([row]), right, 3)[0] == pytest.approx(np.mean(subsets), abs=0.1)
    assert majority_at_k(np.array([row] * 50), np.repeat(right, 50, 0), 3).mean() == pytest.approx(
        np.mean(subsets), abs=0.015
    )


def test_a_proportion_s_interval_is_wilson_s():
    # 8 of 10: (0.8 + 0.19207) / 1.38415 = 0.71673, half 1.95996 / 1.38415 * sqrt(0.016 + 0.0096037) = 0.22657
    assert proportion_interval(8, 10) == pytest.approx((0.71673 - 0.22657, 0.71673 + 0.22657), abs=1e-4)
    assert proportion_interval(0, 10)[1] > 0.2
    assert proportion_interval(10, 10)[0] < 0.8


def test_bootstrap_intervals_hold_the_difference_and_mirror():
    rng = np.random.default_rng(0)
    before, after = rng.random(200), rng.random(200) + 0.2
    low, high = difference_interval(after, before)
    assert low < (after - before).mean() < high
    assert difference_interval(before, after) == pytest.approx((-high, -low))
    se = after.std() / np.sqrt(200)
    assert mean_interval(after) == pytest.approx((after.mean() - 1.96 * se, after.mean() + 1.96 * se), abs=0.2 * se)


def test_a_share_that_all_problems_agree_on_has_an_interval_still():
    nothing, half = np.zeros(8), np.full(8, 0.5)
    assert figure("strict", nothing, None, share=True).high > 0.3
    both = figure("pass@4", nothing, nothing, share=True)
    assert both.low < 0 < both.high
    assert figure("reward/x", nothing, None).high == 0.0
    assert figure("strict", half, half + 0.25, share=True).low == pytest.approx(0.25)


def test_problems_that_one_side_has_no_reward_for_are_left_out():
    base, adapter = np.array([1.0, np.nan, 3.0, 5.0]), np.array([2.0, 9.0, np.nan, 7.0])
    found = figure("reward/x", base, adapter)
    assert (found.problems, found.base, found.adapter, found.gain) == (2, 3.0, 4.5, 1.5)
    empty = figure("reward/x", np.array([np.nan]), np.array([1.0]))
    assert empty.as_json() == {"base": None, "interval": None, "problems": 0}
