"""Accuracies with intervals, and the parts of a climb."""

import random

import pytest
from fedgrpo.common.analysis.scores import climb_by_style, paired_interval, score
from fedgrpo.common.messages.messages import Tally
from hypothesis import given
from hypothesis import strategies as st


def test_a_score_on_ten_problems():
    found = score(Tally(problems=10, correct=6, lenient=8, truncated=1, tokens=200, gained=4, lost=1))
    assert (found.strict, found.lenient, found.truncated, found.mean_length) == (0.6, 0.8, 0.1, 20.0)
    assert found.gain == pytest.approx(0.3)
    assert found.gain_low < 0.3 < found.gain_high


def test_the_interval_is_agresti_and_min_s():
    # n = 100, 20 gained, 5 lost: (20.5 - 5.5) / 102 = 0.14706, se = sqrt(26 - 225 / 102) / 102 = 0.04782
    assert paired_interval(100, 20, 5) == pytest.approx(
        (0.14706 - 1.95996 * 0.04782, 0.14706 + 1.95996 * 0.04782), abs=1e-4
    )
    assert paired_interval(0, 0, 0) == (0.0, 0.0)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng, covered = random.Random(0), 0
    for _ in range(2000):
        draws = rng.choices(("gained", "lost", "same"), (0.15, 0.05, 0.80), k=200)
        low, high = paired_interval(200, draws.count("gained"), draws.count("lost"))
        covered += low <= 0.10 <= high
    assert 0.93 <= covered / 2000 <= 0.98


def tally(problems, correct):
    return Tally(problems=problems, correct=correct)


def test_a_climb_by_change_of_style_alone():
    before = {"reasoned": tally(20, 16), "answer-only": tally(80, 8)}
    after = {"reasoned": tally(90, 72), "answer-only": tally(10, 1)}
    climb = climb_by_style(before, after)
    assert climb.by_mix == pytest.approx(0.49)
    assert climb.within == pytest.approx(0.0)


TALLIES = st.dictionaries(
    st.sampled_from(["reasoned", "answer-only", "untagged"]),
    st.integers(1, 200).flatmap(lambda n: st.integers(0, n).map(lambda c: tally(n, c))),
    min_size=1,
)


@given(TALLIES, TALLIES)
def test_the_parts_of_a_climb_sum_to_the_climb(before, after):
    def total(tallies):
        return sum(t.correct for t in tallies.values()) / sum(t.problems for t in tallies.values())

    climb = climb_by_style(before, after)
    assert climb.by_mix + climb.within == pytest.approx(total(after) - total(before), abs=1e-9)
