"""Data files and the order of reading."""

import pytest
from fedgrpo.client.learner.data.problems import Problem, read_jsonl, reading_order
from fedgrpo.common.errors import ConfigError, DataError
from fedgrpo.simulations.engine.datasets import gsm8k_problem
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(1, 40), st.integers(0, 200), st.integers(1, 60), st.integers(0, 5))
def test_a_shard_is_read_without_repetition_and_from_where_one_stopped(size, position, count, seed):
    whole = reading_order(size, 0, position + count, seed=seed, reader="a")
    assert reading_order(size, position, count, seed=seed, reader="a") == whole[position:]
    for start in range(0, len(whole) - size + 1, size):
        assert sorted(whole[start : start + size]) == list(range(size))


def test_readers_and_epochs_have_orders_of_their_own():
    def order(reader, position=0):
        return reading_order(30, position, 30, seed=0, reader=reader)

    assert order("a") != order("b")
    assert order("a") != order("a", 30)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"question": "q", "answer": "a"}\n{"question": "q"\n', "line 2 is not JSON"),
        ('{"question": "q", "answer": "a"}\n\n[1]\n', "line 3 is not a JSON object"),
        ('{"question": "q", "answer": 5}\n', "line 1 has no text field 'answer'"),
        ("", "does not contain any problems"),
        ("\n\n", "does not contain any problems"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(tmp_path, text, says):
    path = tmp_path / "train.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=says) as caught:
        read_jsonl(path, ("question", "answer"))
    assert str(path) in str(caught.value)


def test_bytes_that_are_no_text_are_named_too(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_bytes(b'{"question": "\xff\xfe", "answer": "1"}\n')
    with pytest.raises(DataError, match="line 1 is not JSON"):
        read_jsonl(path, ("question",))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="Cannot read .*nothing.jsonl: No such file"):
        read_jsonl(tmp_path / "nothing.jsonl", ())


def test_a_gsm8k_row_becomes_a_problem():
    row = {"question": "q", "answer": "3 <<1+2=3>>3\nthen <<3*400=1200>>\n#### 1,200"}
    assert gsm8k_problem(row, "here") == Problem("q", "1200", {"steps": "2"})
    plain = {"question": "q", "answer": "one line\ntwo lines\n#### -5"}
    assert gsm8k_problem(plain, "here") == Problem("q", "-5", {"steps": "2"})
    with pytest.raises(DataError, match="here: the answer has no .####. followed by a reference answer"):
        gsm8k_problem({"question": "q", "answer": "5"}, "here")


def test_a_row_holds_what_trl_and_the_rewards_want():
    row = Problem("q", "1", {"topic": "shop"}).row("be brief")
    assert row == {
        "prompt": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "q"}],
        "answer": "1",
        "topic": "shop",
    }
    assert Problem("q", "1").row("")["prompt"] == [{"role": "user", "content": "q"}]
