"""Numbers with fewer bits: what is rounded, what comes back, how many bytes, and what hostile bytes can do."""

import tracemalloc
import zlib

import numpy as np
import pytest
from fedgrpo.common.adapter.compression import CODECS, most_bytes, packed, rounded, unpacked
from fedgrpo.common.errors import ProtocolError
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

ALL = tuple(CODECS.built_in)
ODD = np.float32([1.0, 0.123456])
LOSSY = [name for name in ALL if (rounded(ODD, name) != ODD).any()]
UNBIASED = [name for name, codec in CODECS.built_in.items() if not codec.needs_feedback]
FLOATS = arrays.arrays(
    np.float32, st.integers(1, 100), elements=st.floats(-(2.0**120), 2.0**120, width=32, allow_subnormal=False)
)


@pytest.mark.parametrize("codec", ALL)
@given(FLOATS)
@example(np.float32([-0.0, 0.0]))
@example(np.float32([127.0, -127.0, 63.5, 64.5]))
def test_what_was_rounded_comes_back_bit_for_bit_and_is_not_rounded_again(codec, vector):
    on_grid = rounded(vector, codec, top_share=0.3)
    data = packed(on_grid, codec)
    assert (unpacked(data, vector.size, codec) == on_grid).all()
    assert len(data) <= most_bytes(vector.size, codec)
    again = rounded(on_grid, codec, top_share=1.0)
    assert again.tobytes() == on_grid.tobytes()


def test_grids_by_hand():
    vector = np.float32([127.0, 1.4, -1.6, 0.4])
    assert rounded(vector, "int8").tolist() == [127.0, 1.0, -2.0, 0.0]
    assert rounded(vector * 2, "int8").tolist() == [254.0, 2.0, -4.0, 0.0]  # one exponent for the block
    assert rounded(vector, "int4").tolist() == [128.0, 0.0, 0.0, 0.0]
    assert rounded(np.float32([1.0, 1.00390625, 3.0]), "bf16").tolist() == [1.0, 1.0, 3.0]
    assert rounded(np.float32([1.0, -5.0, 3.0, 0.5]), "top-k", top_share=0.5).tolist() == [0.0, -5.0, 3.0, 0.0]


@pytest.mark.parametrize(("codec", "step"), [("int8", 1 / 127), ("int4", 1 / 7)])
@given(FLOATS)
def test_no_number_moves_by_more_than_half_a_step_of_its_block(codec, step, vector):
    moved = np.abs(rounded(vector, codec).astype(np.float64) - vector)
    for start in range(0, vector.size, 32):
        largest = float(np.abs(vector[start : start + 32]).max())
        assert moved[start : start + 32].max() <= max(
            largest * step, 2.0**-120
        )  # the step is at most twice largest/levels


@pytest.mark.parametrize("codec", UNBIASED)
def test_random_rounding_is_right_on_average_unless_a_codec_needs_feedback(codec):
    generator = np.random.default_rng(0)
    vector = generator.normal(size=64).astype(np.float32)
    draws = np.stack([rounded(vector, codec, generator=generator) for _ in range(4000)]).astype(np.float64)
    spread = draws.std(axis=0) / 4000**0.5
    assert (np.abs(draws.mean(axis=0) - vector) <= 5 * spread + 1e-9).all()
    assert all(len(np.unique(column)) <= 2 for column in draws.T)  # its two neighbours on the grid


def test_bytes_of_a_delta_like_that_of_training():
    vector = np.random.default_rng(0).normal(size=100_000).astype(np.float32) * np.float32(1e-3)
    sizes = {codec: len(packed(rounded(vector, codec, top_share=0.05), codec)) for codec in ALL}
    full = sizes["fp32"]
    assert full == 400_000 == max(sizes.values())
    assert sizes["bf16"] == full / 2
    assert sizes["int8"] < full / 4
    assert sizes["int4"] < full / 7
    assert sizes["top-k"] < full / 20


@pytest.mark.parametrize("codec", LOSSY)
def test_a_vector_that_was_not_rounded_is_not_packed(codec):
    with pytest.raises(ValueError, match="not rounded"):
        packed(ODD, codec)


@pytest.mark.parametrize("codec", ALL)
@given(st.binary(max_size=300), st.integers(1, 80))
def test_any_bytes_are_a_vector_of_that_size_or_refused(codec, data, size):
    try:
        vector = unpacked(data, size, codec)
    except ProtocolError:
        return
    assert vector.shape == (size,)
    assert vector.dtype == np.float32


@pytest.mark.parametrize("codec", ALL)
@given(st.integers(0, 2**31 - 1), st.integers(0, 10_000), st.integers(1, 255))
def test_a_flipped_byte_is_another_vector_or_refused(codec, seed, place, flip):
    vector = rounded(np.random.default_rng(seed).normal(size=200).astype(np.float32), codec, top_share=0.1)
    data = bytearray(packed(vector, codec))
    data[place % len(data)] ^= flip
    try:
        found = unpacked(bytes(data), 200, codec)
    except ProtocolError:
        return
    assert found.shape == (200,)


@pytest.mark.parametrize("codec", ALL)
@pytest.mark.parametrize("start", [b"", (5).to_bytes(4, "little"), b"\xff" * 4])
def test_a_bomb_is_not_blown_up(codec, start):
    coder = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = coder.compress(bytes(200_000_000)) + coder.flush()
    assert len(bomb) < 300_000
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="damaged"):
            unpacked(start + bomb, 1000, codec)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("codec", ALL)
def test_bytes_after_the_end_are_refused(codec):
    with pytest.raises(ProtocolError, match="damaged"):
        unpacked(packed(np.zeros(64, np.float32), codec) + b"more", 64, codec)


def test_an_unknown_codec_is_refused():
    with pytest.raises(ProtocolError, match="no codec"):
        unpacked(b"", 1, "int2")
