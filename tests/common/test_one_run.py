"""The bound on epsilon from one run: the theorem on numbers by hand, and against mechanisms whose epsilon is known."""

import math

import numpy as np
import pytest
from fedgrpo.common.analysis.binomial import at_least
from fedgrpo.common.analysis.one_run import GUESSED_SHARES, audit, epsilon_bound, p_value


def test_without_delta_the_p_value_is_the_tail_of_randomised_response():
    assert p_value(10, 10, 10, epsilon=0.0, delta=0.0) == pytest.approx(1 / 1024)
    assert p_value(3, 3, 3, epsilon=math.log(3), delta=0.0) == pytest.approx((3 / 4) ** 3)
    assert p_value(50, 3, 2, epsilon=math.log(3), delta=0.0) == pytest.approx(27 / 64 + 3 * 9 / 64)
    assert p_value(10, 10, 0, epsilon=0.0, delta=0.0) == 1.0


def test_delta_adds_the_term_of_the_theorem_on_numbers_by_hand():
    """r = 2, v = 2, q = 1/2: P[W = 1] = 1/2, P[W in {0, 1}] = 3/4, so alpha = max(2 * 1/2, 2/2 * 3/4) = 1."""
    assert p_value(2, 2, 2, epsilon=0.0, delta=0.01) == pytest.approx(1 / 4 + 1 * 2 * 0.01)
    # r = 2, v = 1: only W = 0 is below, so alpha = 2 * 1/4
    assert p_value(7, 2, 1, epsilon=0.0, delta=0.01) == pytest.approx(3 / 4 + 0.5 * 7 * 0.01)
    # q = 3/4, v = 2: 2 * 6/16 = 0.75 against 6/16 + 1/16
    assert p_value(4, 2, 2, epsilon=math.log(3), delta=0.1) == pytest.approx(9 / 16 + 0.75 * 4 * 0.1)
    assert p_value(100, 100, 90, epsilon=0.0, delta=1.0) == 1.0


def test_it_is_the_sum_written_out_with_scipy_s_binomial():
    binom = pytest.importorskip("scipy.stats").binom
    rng = np.random.default_rng(0)
    for _ in range(30):
        m = int(rng.integers(1, 300))
        r = int(rng.integers(1, m + 1))
        v, epsilon, delta = int(rng.integers(0, r + 1)), float(rng.uniform(0, 4)), float(10 ** rng.uniform(-7, -1))
        q = 1 / (1 + math.exp(-epsilon))
        sums = [2 / i * (binom.cdf(v - 1, r, q) - binom.cdf(v - 1 - i, r, q)) for i in range(1, m + 1)]
        expected = binom.sf(v - 1, r, q) + max(sums) * m * delta
        assert p_value(m, r, v, epsilon=epsilon, delta=delta) == pytest.approx(min(1.0, expected), abs=1e-10)


def test_the_bound_is_where_the_p_value_crosses_the_error():
    bound = epsilon_bound(100, 100, 90, delta=1e-5)
    assert p_value(100, 100, 90, epsilon=bound, delta=1e-5) == pytest.approx(0.05, abs=1e-6)
    assert epsilon_bound(20, 20, 20, delta=0.0) == pytest.approx(math.log(q := 0.05 ** (1 / 20)) - math.log(1 - q))
    assert epsilon_bound(100, 100, 50, delta=0.0) == 0.0
    assert epsilon_bound(100, 100, 0, delta=0.0) == 0.0


@pytest.mark.parametrize("wrong", [(5, 6, 1, 0.0, 0.0), (5, 5, 6, 0.0, 0.0), (5, 5, 5, -1.0, 0.0), (5, 5, 5, 1.0, 1.5)])
def test_impossible_counts_are_refused(wrong):
    with pytest.raises(ValueError, match="guesses on"):
        p_value(*wrong[:3], epsilon=wrong[3], delta=wrong[4])


def randomised_response(rng, count, epsilon):
    """Coins, and what an epsilon-private mechanism says of them: each truly with chance e^epsilon / (e^epsilon + 1)."""
    included = rng.random(count) < 0.5
    truthful = rng.random(count) < 1 / (1 + math.exp(-epsilon))
    return np.where(truthful, included, ~included) + 0.0, included


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.0, 2.0, 4.0])
def test_the_bound_on_randomised_response_is_below_the_truth_as_often_as_it_says(epsilon):
    rng, times = np.random.default_rng(1), 200
    bounds = [audit(*randomised_response(rng, 120, epsilon), delta=1e-5, seed=i).epsilon for i in range(times)]
    assert sum(bound <= epsilon for bound in bounds) / times >= 0.95


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 2.0])
def test_with_many_canaries_the_bound_is_close_to_the_truth(epsilon):
    rng = np.random.default_rng(2)
    bounds = [audit(*randomised_response(rng, 20_000, epsilon), delta=0.0, seed=i).epsilon for i in range(5)]
    assert max(bounds) <= epsilon
    assert min(bounds) >= 0.85 * epsilon


def test_a_gaussian_score_is_guessed_about_at_its_ends():
    """Guesses at the ends are surer, so a share below 1 gives the highest bound; the others abstain."""
    rng = np.random.default_rng(3)
    included = rng.random(2000) < 0.5
    found = audit(rng.normal(2.0 * included, 1.0), included, delta=1e-5)
    assert (found.canaries, found.included) == (2000, int(included.sum()))
    assert found.guesses in (250, 500)
    assert found.right / found.guesses > 0.95
    assert found.epsilon > epsilon_bound(2000, 2000, int(0.8413 * 2000), delta=1e-5)


def test_equal_scores_are_not_ordered_by_their_coins():
    included = np.arange(1000) < 500
    found = audit(np.zeros(1000), included, delta=0.0)
    assert found.epsilon == 0.0
    assert abs(found.right / found.guesses - 0.5) < 0.1


def test_the_error_is_divided_among_the_shares_that_are_tried():
    included = np.arange(64) < 32
    found = audit(included + 0.0, included, delta=0.0)
    assert (found.guesses, found.right) == (64, 64)
    q = (0.05 / len(GUESSED_SHARES)) ** (1 / 64)
    assert found.epsilon == pytest.approx(math.log(q / (1 - q)))
    assert at_least(64, 64, q) == pytest.approx(0.0125)
