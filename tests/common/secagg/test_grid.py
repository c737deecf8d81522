"""The fixed grid, the digits beside it and the layout of both: sums are exact, or refused."""

import math

import numpy as np
import pytest
from fedgrpo.common.errors import ConfigError, ProtocolError
from fedgrpo.common.secagg.digits import DIGITS, LIMIT, SCALE, from_digits, to_digits
from fedgrpo.common.secagg.grid import INT8_LEVELS, MIN_RESOLUTION, Grid, grid_of
from fedgrpo.common.secagg.layout import EVALUATION_NUMBERS, WEIGHT, Layout, training_numbers
from fedgrpo.common.settings.run_config import RunConfig
from hypothesis import given
from hypothesis import strategies as st

MEMBERS = st.integers(3, 100)
CLIPS = st.floats(-30, 6, exclude_min=True).map(lambda exponent: 10.0**exponent)
SECAGG = RunConfig().with_values({"privacy.mode": "secagg"})


def settings(clip=10.0, **values):
    return SECAGG.with_values({"privacy.clip-norm": clip, **values})


def added(grid, vectors):
    total = np.zeros(vectors[0].size, grid.dtype)
    for whole in vectors:
        total += grid.words(whole)
    return total


@given(MEMBERS, CLIPS)
def test_no_sum_of_all_members_overflows_and_no_finer_grid_would_do(members, clip):
    grid = grid_of(settings(clip), members)
    assert members * grid.levels < 1 << 31
    assert math.log2(grid.step).is_integer()
    finer = math.floor(2 * clip / grid.step) + 1
    assert members * finer >= 1 << 31
    for sign in (1, -1):
        most = np.full(3, sign * grid.levels)
        total = grid.signed(added(grid, [most] * members), members)
        assert total.tolist() == [sign * members * grid.levels] * 3


@given(MEMBERS, CLIPS, st.integers(0, 2**32))
def test_nothing_of_a_vector_clipped_to_the_norm_is_beyond_the_grid(members, clip, seed):
    grid, generator = grid_of(settings(clip), members), np.random.default_rng(seed)
    vector = np.zeros(7)
    vector[generator.integers(7)] = clip * generator.choice([-1, 1])  # all of the norm in one coordinate
    spread = generator.normal(size=7)
    for values in (vector, spread * (clip / float(np.linalg.norm(spread)))):
        whole, beyond = grid.coded(values, generator)
        assert beyond == 0
        assert np.abs(whole).max() <= grid.levels
        assert np.abs(grid.values(whole) - values).max() < grid.step


def test_the_grid_of_three_members_and_a_clip_of_ten():
    grid = grid_of(settings(10.0), 3)
    assert (grid.step, grid.levels, grid.bits) == (2.0**-26, 671088641, 32)


@pytest.mark.parametrize("members", [3, 100])
def test_a_grid_is_never_coarser_than_a_thousandth_of_the_clip(members):
    for clip in (1e-9, 10.0, 1e6):
        assert grid_of(settings(clip), members).step <= MIN_RESOLUTION * clip


def test_a_coarse_grid_is_refused():
    with pytest.raises(ConfigError, match=r"privacy\.clip-norm is 10, and a sum of 4000000 members .* which is coarse"):
        grid_of(settings(10.0), 4_000_000)


@given(MEMBERS)
def test_the_grid_of_int8_is_summed_in_16_bits_without_overflow(members):
    grid = grid_of(settings(**{"compression.up": "int8"}), members)
    assert (grid.bits, grid.levels) == (16, INT8_LEVELS)
    most = np.full(2, -INT8_LEVELS)
    assert grid.signed(added(grid, [most] * members), members).tolist() == [-INT8_LEVELS * members] * 2


def test_too_many_members_for_16_bits_are_refused():
    config = settings(**{"compression.up": "int8"})
    assert grid_of(config, 258).bits == 16
    with pytest.raises(ConfigError, match="259 members with numbers up to 127 each can overflow a sum of 16 bits"):
        grid_of(config, 259)


def test_what_is_beyond_the_grid_s_end_is_counted():
    grid = Grid(step=0.5, levels=4, bits=16)
    whole, beyond = grid.coded(np.array([2.0, 2.25, 2.5, -3.0, 1e30, 0.0]), None)
    assert whole.tolist() == [4, 4, 4, -4, 4, 0]
    assert beyond == 3


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_has_no_whole_number(value):
    with pytest.raises(ProtocolError, match="NaN or infinity") as caught:
        Grid(step=0.5, levels=4, bits=16).coded(np.array([1.0, value]), None)
    assert caught.value.code == "secagg.not-finite"


def test_random_rounding_is_right_on_average_and_to_a_neighbour():
    """A mean of 40,000 roundings is within 5 standard errors of the value: wrong one time in 10^6 a value."""
    grid, count = Grid(step=1.0, levels=1000, bits=32), 40_000
    for value in (0.25, -0.25, 7.5, -3.9, 2.0, 1e-3):
        whole, beyond = grid.coded(np.full(count, value), np.random.default_rng(0))
        share = value - math.floor(value)
        error = 5 * math.sqrt(max(share * (1 - share), 1e-12) / count)
        assert abs(whole.mean() - value) <= error
        assert beyond == 0
        assert set(whole.tolist()) <= {math.floor(value), math.floor(value) + 1}


@given(MEMBERS, st.data())
def test_a_sum_that_so_many_members_cannot_have_is_refused(members, data):
    grid = Grid(step=1.0, levels=1000, bits=32)
    most = members * grid.levels
    value = data.draw(st.integers(most + 1, (1 << 32) - most - 1))
    with pytest.raises(ProtocolError, match=f"of {members} members holds numbers beyond {most}") as caught:
        grid.signed(np.array([0, value], np.uint32), members)
    assert caught.value.code == "secagg.sum"
    edge = np.array([most, (1 << 32) - most], np.uint32)
    assert grid.signed(edge, members).tolist() == [most, -most]


NUMBERS = st.one_of(
    st.floats(-LIMIT, LIMIT, exclude_min=True, exclude_max=True),
    st.integers(-(1 << 41), 1 << 41).map(float),
    st.sampled_from([0.0, -0.0, 1.0, math.nextafter(LIMIT, 0), -math.nextafter(LIMIT, 0)]),
)


@given(st.lists(NUMBERS, min_size=1, max_size=100), st.integers(0, 97))
def test_the_sums_of_digits_are_the_digits_of_the_sum(numbers, more):
    members = len(numbers) + min(more, 100 - len(numbers))
    numbers = numbers + [0.0] * (members - len(numbers))
    total = sum(to_digits([number]) for number in numbers)
    assert 0 <= total.min() <= total.max() < 1 << 15
    (found,) = from_digits(total, members)
    assert found == sum(round(number * SCALE) for number in numbers) / SCALE


def test_digits_are_those_that_are_worked_out_by_hand():
    assert to_digits([1.0]).tolist() == [0, 0, 16, 0, 0, 0, 0, 64]
    assert to_digits([-(2.0**-20)]).tolist() == [255] * 7 + [63]
    assert from_digits(np.array([0, 0, 32, 0, 0, 0, 0, 128]), 2) == [2.0]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, LIMIT, -LIMIT, 1e300])
def test_a_number_that_cannot_be_added_up_is_refused(number):
    with pytest.raises(ProtocolError, match="cannot be part of a sum") as caught:
        to_digits([0.0, number])
    assert caught.value.code == "secagg.number"


@pytest.mark.parametrize("digit", [-1, 2 * 255 + 1])
def test_digits_that_so_many_members_cannot_have_are_refused(digit):
    with pytest.raises(ProtocolError) as caught:
        from_digits(np.array([0] * 7 + [digit]), 2)
    assert caught.value.code == "secagg.sum"


@pytest.mark.parametrize("up", ["fp32", "int8"])
def test_a_layout_s_sum_is_that_of_updates_and_numbers(up):
    members, names = 100, training_numbers(("reward/mean", "policy/kl"))
    grid = grid_of(settings(**{"compression.up": up}), members)
    layout = Layout(coordinates=11, numbers=names, grid=grid)
    assert layout.size == 11 + DIGITS * 5
    generator = np.random.default_rng(1)
    updates = generator.integers(-grid.levels, grid.levels, (members, 11), endpoint=True)
    beside = [{name: float(generator.normal()) for name in names} for _ in range(members)]
    total = np.zeros(layout.size, grid.dtype)
    for update, numbers in zip(updates, beside, strict=True):
        total += layout.words(update, numbers)
    found, sums = layout.opened(total, members)
    assert np.array_equal(found, updates.sum(axis=0) * grid.step)
    assert list(sums) == list(names)
    assert sums[WEIGHT] == sum(round(numbers[WEIGHT] * SCALE) for numbers in beside) / SCALE


def test_a_layout_of_counts_alone_has_no_coordinates():
    layout = Layout(coordinates=0, numbers=EVALUATION_NUMBERS, grid=grid_of(settings(), 3))
    counts = {name: float(place) for place, name in enumerate(EVALUATION_NUMBERS)}
    total = np.zeros(layout.size, layout.grid.dtype)
    for _ in range(3):
        total += layout.words(np.zeros(0, np.int64), counts)
    update, sums = layout.opened(total, 3)
    assert update.size == 0
    assert sums == {name: 3.0 * place for place, name in enumerate(EVALUATION_NUMBERS)}


def test_one_digit_too_many_in_a_sum_is_refused_where_an_update_may_have_it():
    layout = Layout(coordinates=1, numbers=("weight",), grid=grid_of(settings(), 3))
    total = np.zeros(layout.size, np.uint32)
    total[:2] = 1000
    with pytest.raises(ProtocolError, match="of 3 members holds numbers beyond 765"):
        layout.opened(total, 3)
