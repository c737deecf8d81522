"""Paired differences over seeds and problems: golden numbers, symmetry, and how often the interval is right."""

import itertools
import math

import numpy as np
import pytest
from fedgrpo.common.analysis import bootstrap
from fedgrpo.common.analysis.bootstrap import (
    best_of,
    bootstrap_interval,
    interval_over_seeds,
    paired_difference,
    t95,
    t_interval,
    worst_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st

ARM = np.array([[1, 1, 0, 1, 1, 0], [1, 0, 0, 1, 1, 1.0]])
BASE = np.array([[1, 0, 0, 1, 0, 0], [0, 0, 1, 1, 1, 0.0]])


def test_a_difference_on_two_seeds_and_six_problems():
    found = paired_difference(ARM, BASE)
    assert found.mean == pytest.approx(3 / 12)
    assert found.by_seed == pytest.approx((2 / 6, 1 / 6))
    assert bootstrap_interval(ARM - BASE) == pytest.approx((-1 / 6, 4 / 6))  # of all 4 x 6^6 resamplings, too
    half = 12.706 * (1 / 12)  # Student's t of 1/3 and 1/6, whose standard error is 1/12
    assert (found.low, found.high) == pytest.approx((0.25 - half, 0.25 + half))
    assert not found.found


def test_the_bootstrap_is_that_written_out_as_loops():
    rng, draws = np.random.default_rng(1), []
    for _ in range(4000):
        seeds, problems = rng.integers(0, 2, 2), rng.integers(0, 6, 6)
        draws.append(np.mean([[ARM[s, p] - BASE[s, p] for p in problems] for s in seeds]))
    low, high = np.quantile(draws, [0.025, 0.975])
    assert bootstrap_interval(ARM - BASE) == pytest.approx((low, high), abs=0.05)


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


EFFECT = 0.05
GRID = list(itertools.product((2, 3, 5), (150, 600), (0.0, 0.01, 0.03, 0.05), (False, True)))
"""Seeds, held-out problems, how far each arm's accuracy varies with the seed, whether the effect differs by problem."""
CORNERS = [cell for cell in GRID if cell[0] != 3 and cell[2] in (0.0, 0.05)] + [(3, 600, 0.05, False)]


def synthetic(rng, studies, seeds, problems, seed_sd, by_problem):
    """Differences of two arms whose true difference is EFFECT, shape (studies, seeds, problems)."""
    chance = rng.uniform(0.35, 0.55, (studies, 1, problems))
    effect = EFFECT + by_problem * 0.25 * rng.choice([-1.0, 1.0], (studies, 1, problems))
    arms = [chance + effect, chance]
    arms = [arm + rng.normal(0, seed_sd, (studies, seeds, 1)) for arm in arms]
    right = [(rng.random((studies, seeds, problems)) < arm).astype(float) for arm in arms]
    return right[0] - right[1]


def coverage(interval, cell, studies=1000, at_once=250):
    """How often an interval covers the true difference."""
    rng, covered = np.random.default_rng(7), 0
    for _ in range(studies // at_once):
        low, high = interval(synthetic(rng, at_once, *cell))
        covered += int(((low <= EFFECT) & (high >= EFFECT)).sum())
    return covered / studies


@pytest.fixture
def few_draws(monkeypatch):
    """A twentieth of the bootstrap's draws: its ends move by some percent of its width."""
    monkeypatch.setattr(bootstrap, "DRAWS", 500)
    monkeypatch.setattr(bootstrap, "DRAWS_AT_ONCE", 500)


@pytest.mark.parametrize("cell", CORNERS)
def test_the_interval_covers_the_truth_at_least_as_often_as_it_says(few_draws, cell):
    assert coverage(interval_over_seeds, cell) >= 0.93


@pytest.mark.slow
@pytest.mark.parametrize("cell", GRID)
def test_the_interval_covers_the_truth_in_every_cell_of_the_grid(few_draws, cell):
    """With -s it prints the row of docs/log.md: the bootstrap alone, Student's t alone, and the two together."""
    alone = {"bootstrap": bootstrap_interval, "t": t_interval, "both": interval_over_seeds}
    shares = {name: coverage(interval, cell, studies=2000) for name, interval in alone.items()}
    print("|", " | ".join(map(str, cell)), "|", " | ".join(f"{share:.3f}" for share in shares.values()), "|")
    assert shares["both"] >= 0.93


def test_neither_the_bootstrap_nor_student_s_t_covers_enough_alone(few_draws):
    assert coverage(bootstrap_interval, (2, 600, 0.05, False)) < 0.85
    assert coverage(t_interval, (5, 600, 0.0, True)) < 0.92


def test_seeds_that_differ_more_than_problems_widen_the_interval_to_student_s_t():
    arm = np.zeros((3, 100))
    arm[0, :10] = arm[1, :20] = arm[2, :30] = 1.0
    found = paired_difference(arm, np.zeros((3, 100)))
    half = 4.303 * 0.1 / 3**0.5
    assert (found.low, found.high) == pytest.approx((0.2 - half, 0.2 + half))
    assert not found.found


def test_one_seed_has_the_bootstrap_s_interval_alone():
    single = ARM[:1] - BASE[:1]
    assert interval_over_seeds(single) == bootstrap_interval(single)


def test_the_quantiles_of_student_s_t_are_those_of_its_distribution():
    for count in (2, 3, 4, 5, 8, 12, 21):
        degrees, x = count - 1, np.linspace(-t95(count), t95(count), 200_001)
        density = (1 + x**2 / degrees) ** (-(degrees + 1) / 2)
        density *= math.gamma((degrees + 1) / 2) / math.gamma(degrees / 2) / math.sqrt(degrees * math.pi)
        assert np.trapezoid(density, x) == pytest.approx(0.95, abs=1e-4)
    assert t95(22) == t95(500) == t95(21)


def test_what_cannot_be_paired_is_refused():
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_difference(np.zeros((2, 3)), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_difference(np.zeros((0, 3)), np.zeros((0, 3)))


def test_the_best_and_the_worst_client_are_chosen_for_each_seed():
    clients = np.array([[[1, 0, 0], [1, 1, 0]], [[1, 1, 1], [0, 0, 1]]], dtype=float)
    assert best_of(clients).tolist() == [[1, 1, 0], [1, 1, 1]]
    assert worst_of(clients).tolist() == [[1, 0, 0], [0, 0, 1]]
