"""ROC figures of a membership test: golden numbers, ties, and how often the intervals are right."""

from statistics import NormalDist

import numpy as np
import pytest
from fedgrpo.common.analysis.binomial import at_least, exact_high, exact_low, probabilities
from fedgrpo.common.analysis.roc import auc, auc_interval, curve, others_needed, true_positives

NORMAL = NormalDist()


def test_binomial_tails_on_numbers_by_hand():
    assert probabilities(3, 0.5).tolist() == pytest.approx([1 / 8, 3 / 8, 3 / 8, 1 / 8])
    assert probabilities(4, 0.0).tolist() == [1, 0, 0, 0, 0]
    assert probabilities(4, 1.0).tolist() == [0, 0, 0, 0, 1]
    assert at_least(10, 9, 0.5) == pytest.approx(11 / 1024)
    assert at_least(10, 0, 0.5) == pytest.approx(1.0)
    assert probabilities(5000, 0.01).sum() == pytest.approx(1.0)


def test_the_exact_bounds_of_a_share_are_clopper_and_pearson_s():
    assert exact_low(0, 10, 0.05) == 0.0
    assert exact_high(10, 10, 0.05) == 1.0
    assert exact_high(0, 10, 0.05) == pytest.approx(1 - 0.05 ** (1 / 10))  # no success in ten
    assert (exact_low(7, 20, 0.025), exact_high(7, 20, 0.025)) == pytest.approx((0.15391, 0.59219), abs=1e-5)


def test_the_area_counts_pairs_in_order_and_half_of_the_ties():
    members, others = np.array([3.0, 2.0, 2.0]), np.array([1.0, 2.0])
    assert auc(members, others) == pytest.approx((2 + 1.5 + 1.5) / 6)
    assert auc(others, members) == pytest.approx(1 - auc(members, others))
    assert auc(np.ones(4), np.ones(9)) == 0.5


def test_the_curve_goes_from_nothing_to_everything_and_has_that_area():
    rng = np.random.default_rng(0)
    members, others = rng.integers(0, 6, 50).astype(float) + 1, rng.integers(0, 6, 70).astype(float)
    false, true = curve(members, others)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(true, false) == pytest.approx(auc(members, others))


def test_an_interval_is_never_of_width_0_and_swapping_the_kinds_mirrors_it():
    apart = auc_interval(np.arange(30.0) + 100, np.arange(40.0))
    assert (apart.value, apart.high) == (1.0, 1.0)
    assert 0.85 < apart.low < 0.97
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.5, 1, 40), rng.normal(0, 1, 60)
    there, back = auc_interval(a, b), auc_interval(b, a)
    assert (there.low, there.high) == pytest.approx((1 - back.high, 1 - back.low))


CELLS = [
    (members, others, shift, spread)
    for members, others in ((20, 20), (20, 200), (200, 20), (240, 500))
    for shift, spread in ((0, 1), (1, 1), (1, 2), (3, 0.5))
]
"""Prompts of each kind, and the members' mean and standard deviation; the others' are 0 and 1."""


@pytest.mark.parametrize("cell", CELLS)
def test_the_area_s_interval_covers_the_truth_about_as_often_as_it_says(cell):
    members, others, shift, spread = cell
    truth = NORMAL.cdf(shift / np.hypot(1, spread))
    rng, covered, times = np.random.default_rng(3), 0, 400
    for _ in range(times):
        found = auc_interval(rng.normal(shift, spread, members), rng.normal(0, 1, others))
        covered += found.low <= truth <= found.high
    assert covered / times >= 0.92  # of 400: four standard errors below 0.95 are 0.906


def test_rewards_with_few_values_do_not_break_the_interval_of_the_area():
    p, q = probabilities(4, 0.6), probabilities(4, 0.5)
    truth = sum(p[i] * (q[:i].sum() + q[i] / 2) for i in range(5))
    rng, covered, times = np.random.default_rng(4), 0, 400
    for _ in range(times):  # 0, 1, ... 4 of 4 completions right, with chance .6 and .5
        found = auc_interval(rng.binomial(4, 0.6, 80) / 4, rng.binomial(4, 0.5, 120) / 4)
        covered += found.low <= truth <= found.high
    assert covered / times >= 0.92


@pytest.mark.parametrize(("members", "others", "shift"), [(100, 100, 1), (200, 500, 0), (200, 1000, 2), (300, 2000, 1)])
def test_the_interval_of_the_true_positives_covers_the_truth(members, others, shift):
    truth = 1 - NORMAL.cdf(NORMAL.inv_cdf(0.99) - shift)
    rng, covered, times = np.random.default_rng(5), 0, 150
    for _ in range(times):
        found = true_positives(rng.normal(shift, 1, members), rng.normal(0, 1, others))
        covered += found.low <= truth <= found.high
    assert covered / times >= 0.95


def test_true_positives_are_counted_above_the_threshold_that_one_other_in_a_hundred_passes():
    others = np.arange(1000.0)  # ten may pass: 990 to 999
    members = np.array([989.5, 995.0, 989.0, 2000.0])
    assert true_positives(members, others).value == 3 / 4
    assert true_positives(np.full(10, 5.0), np.full(1000, 5.0)).value == 0.0  # a tie is not above


def test_with_too_few_others_nothing_is_claimed_of_few_false_positives():
    assert others_needed() == 437
    clear = np.full(200, 10.0)
    rng = np.random.default_rng(6)
    assert true_positives(clear, rng.normal(0, 1, 436)).low == 0.0
    assert true_positives(clear, rng.normal(0, 1, 437)).low > 0.95
