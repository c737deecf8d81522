"""Reading answers, comparing them, and the built-in rewards with the faults of the published versions mended."""

import pytest
from fedgrpo.client.learner.data.answers import as_number, final_answer, last_number, same_answer, style
from fedgrpo.client.learner.rewards import BUILT_IN, FUNCTIONS, PENALTIES, SETS
from fedgrpo.client.learner.rewards.gsm8k import (
    correctness,
    integer,
    soft_format,
    strict_format,
    think_format,
    xml_count,
)
from fedgrpo.common.errors import ConfigError
from hypothesis import given
from hypothesis import strategies as st

GOOD = "<reasoning>\n3*4=12\n12+1=13\n</reasoning>\n<answer>\n13\n</answer>"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (GOOD, "13"),
        ("<answer>1</answer> wait <answer>2</answer>", "2"),
        ("<answer>1</answer> and <answer>2", "1"),
        ("<answer>42", None),
        ("<answer></answer>", None),
        ("<answer><answer>5</answer>", "5"),
        ("<think>6*7</think>\n42", "42"),
        ("<think>6*7</think><answer>42</answer>", "42"),
        ("so #### 7", "7"),
        ("the answer is 7", None),
        ("", None),
    ],
)
def test_the_final_answer_is_the_last_closed_one(text, answer):
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1,000", "1000", True),
        ("1000.0", "1000", True),
        ("-5", "5", False),
        ("\u22125", "-5", True),
        ("+5", "5", True),
        ("$18", "18", True),
        ("-$18", "-18", True),
        ("18.", "18", True),
        (".5", "0.50", True),
        ("1,00", "100", False),
        ("12 apples", "12", False),
        ("Paris", " paris ", True),
        (None, None, False),
        ("", "", False),
        ("9" * 100, "9" * 100, True),
        ("1e3", "1000", False),
    ],
)
def test_answers_are_compared_as_what_they_mean(one, other, same):
    assert same_answer(one, other) is same
    assert same_answer(other, one) is same


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**12), max_value=10**12))
def test_a_number_is_read_back_with_and_without_commas(number):
    assert as_number(str(number)) == number
    assert as_number(f"{number:,}") == number


def test_the_last_number_is_the_lenient_answer():
    assert last_number("2 boxes of 3,000 make 6,000 pens") == "6,000"
    assert last_number("none") is None


def test_styles():
    assert [style(t) for t in (GOOD, "<answer>1</answer>", "13", "<reasoning>x</reasoning>")] == [
        "reasoned",
        "answer-only",
        "untagged",
        "untagged",
    ]
    assert style("<shop><words>\n7 plus 6 is 13\n</words>\n<answer>\n13\n</answer>") == "worded"


def test_correctness_pays_the_right_answer_only():
    texts = [GOOD, GOOD.replace("\n13\n", "\n-13\n"), "13", ""]
    assert correctness(texts, answer=["13", "-13.0", "13", ""]) == [2.0, 2.0, 0.0, 0.0]


def test_integer_takes_signs_and_commas_that_isdigit_refuses():
    texts = [f"<answer>{a}</answer>" for a in ("7", "-7", "1,200", "7.0", "7.5", "seven", "")]
    assert integer(texts) == [0.5, 0.5, 0.5, 0.5, 0.0, 0.0, 0.0]


def test_strict_format_matches_reasoning_of_several_lines():
    assert strict_format([GOOD, GOOD + "\n"]) == [0.5, 0.5]
    wrong = [GOOD + " bye", " " + GOOD, GOOD.replace("\n", ""), GOOD + "\n" + GOOD, GOOD.replace("</answer>", "")]
    assert strict_format(wrong) == [0.0] * 5


def test_soft_format_wants_the_tags_in_order():
    assert soft_format(["so <reasoning>a</reasoning> then <answer>1</answer>!"]) == [0.5]
    assert soft_format(["<answer>1</answer><reasoning>a</reasoning>", "<reasoning>a</reasoning>"]) == [0.0, 0.0]


def test_xml_count_fines_only_what_follows_the_answer():
    assert xml_count([GOOD, GOOD + "\n", GOOD + "\n" + "x" * 100]) == pytest.approx([0.5, 0.5, 0.4])
    unfinished = "<reasoning>\n" + "x" * 1000 + "\n</reasoning>\n<answer>\n12"
    assert xml_count([unfinished]) == [0.375]
    assert xml_count([GOOD + "x" * 10_000, "plain " * 500]) == [0.0, 0.0]


def test_think_format():
    good = "<think>\n6*7\n</think>\n<answer>42</answer>"
    assert think_format([good, "\n" + good]) == [0.5, 0.5]
    assert think_format(["<think></think>42", "<think>a</think>", "x" + good, good + good, ""]) == [0.0] * 5


def test_the_sets_pay_what_the_recipes_say():
    think = "<think>6*7</think>\n<answer>42</answer>"

    def best(name, text, answer):
        return sum(w * FUNCTIONS[f]([text], answer=[answer])[0] for f, w in SETS[name].items())

    assert best("gsm8k", GOOD, "13") == pytest.approx(2.0 + 0.5 + 0.5 + 0.5 + 0.5)
    assert best("think", think, "42") == pytest.approx(2.0 + 0.5 + 0.25)
    assert best("weighted", GOOD, "13") == pytest.approx(1.0)
    assert best("qwen0.5b-five-rewards", GOOD, "13") == best("gsm8k", GOOD, "13")
    assert best("qwen0.5b-think", think, "42") == best("think", think, "42")
    assert best("qwen0.5b-verl", "6*7\n#### 42", "42") == 1.0
    assert best("qwen3b-unsloth", GOOD, "13") == pytest.approx(2.0 + 0.5)
    assert best("qwen14b-weighted", GOOD, "13") == pytest.approx(0.3 + 0.2 + 0.5)
    assert best("qwen14b-weighted", GOOD + "!" * 100, "13") == pytest.approx(1.0 - 0.1)
    assert best("qwen14b-weighted", GOOD, "14") == pytest.approx(0.3 + 0.2)


def takes_numbers(function):
    """Whether a reward works on a question with a number as the answer; others need further columns or libraries."""
    try:
        function([GOOD], answer=["5"])
    except (ConfigError, ValueError):
        return False
    return True


PLAIN = {name: function for name, function in BUILT_IN.items() if takes_numbers(function)}


@given(st.text(st.sampled_from(list("<>/ans werthkio\n0123456789,.$-")) | st.characters(), max_size=200))
def test_every_reward_is_total_and_bounded(text):
    for name, function in PLAIN.items():
        (reward,) = function([text], answer=["5"])
        low, high = (-1.0, 0.0) if name in PENALTIES else (0.0, 2.0)
        assert reward is None or low <= reward <= high, name


def test_a_long_completion_is_judged_in_no_time():
    hostile = ["<think>" + "a " * 20_000, "<reasoning>\n" * 3000, "<answer>" * 5000, "9" * 100_000, "\n" * 50_000]
    for function in PLAIN.values():
        assert len(function(hostile, answer=["5"] * len(hostile))) == len(hostile)
