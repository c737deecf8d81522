"""Every built-in reward says why it pays what it pays, and what it says agrees with what it pays."""

import json
import re
from pathlib import Path

import pytest
from fedgrpo.client.learner.rewards import BUILT_IN, load_rewards
from fedgrpo.client.learner.rewards.reasons import WHY, reasons
from fedgrpo.client.playground import app
from fedgrpo.client.playground.presets import PRESETS
from hypothesis import given
from hypothesis import strategies as st

ALL_OR_NOTHING = (
    "correctness",
    "hash-correctness",
    "number-present",
    "integer",
    "strict-format",
    "soft-format",
    "think-format",
    "valid-json",
    "multiple-choice",
)
PIECES = (
    *("<reasoning>", "</reasoning>", "<answer>", "</answer>", "<think>", "</think>", "####", "\n", " ", "24", "1,000"),
    *("half", "{}", '{"a": 1}', "[", "(B)", "The answer is B", "A or B", "-3.5", "<answer>\n", "\n</answer>"),
)
TEXTS = st.lists(st.sampled_from(PIECES), max_size=9).map("".join)


def paid(name, text, row):
    (reward,) = load_rewards(name)
    columns = {key: [value] for key, value in row.items()}
    return reward(completions=[[{"role": "assistant", "content": text}]], **columns)[0]


def test_every_built_in_reward_has_reasons():
    assert set(WHY) == set(BUILT_IN)


@pytest.mark.parametrize("name", ALL_OR_NOTHING)
@given(text=TEXTS, answer=st.sampled_from(["24", "B", "1000"]))
def test_it_pays_exactly_where_all_reasons_are_good(name, text, answer):
    row = {"answer": "B" if name == "multiple-choice" else answer}
    found = reasons(name, text, row)
    assert found
    assert (paid(name, text, row) > 0) == all(reason.good for reason in found)


@given(text=TEXTS)
def test_counts_and_penalties_agree_with_their_reasons(text):
    assert (paid("tag-count", text, {}) == 0.5) == all(reason.good for reason in reasons("tag-count", text, {}))
    for name in ("length-penalty", "trailing-text", "repetition-penalty"):
        assert (paid(name, text, {}) == 0) == all(reason.good for reason in reasons(name, text, {})), name


@pytest.mark.parametrize("spec", PRESETS)
def test_every_preset_is_scored_with_differences_and_reasons(spec):
    preset = PRESETS[spec]
    row = {"answer": preset["answer"], **preset.get("columns", {})}
    for reward in load_rewards(spec):
        if reward.name == "truncation-penalty":
            continue  # only a trainer knows it
        for text in preset["completions"]:
            assert reasons(reward.name, text, row), reward.name


def test_which_test_of_code_failed():
    preset = PRESETS["code-tests"]
    right, constant, broken, none = (reasons("code-tests", text, preset) for text in preset["completions"])
    assert [reason.code for reason in right] == ["test-passed", "test-passed"]
    assert [reason.code for reason in constant] == ["test-passed", "test-failed"]
    assert constant[1].values == {"call": "add(-1, 1)", "read": "3", "reference": "0"}
    assert {reason.code for reason in broken} == {"test-raised"}
    assert [reason.code for reason in none] == ["code-none"]


def test_which_field_of_a_record_is_wrong():
    found = reasons("json-fields", '{"name": "Bob", "sex": "f"}', {"answer": '{"name": "Ann", "age": 4}'})
    assert {reason.code: reason.values["path"] for reason in found} == {
        "field-wrong": "name",
        "field-missing": "age",
        "field-invented": "sex",
    }


def test_what_a_schema_does_not_allow():
    schema = json.dumps({"properties": {"age": {"type": "integer"}}, "required": ["name"]})
    found = reasons("json-schema", '{"age": "four"}', {"schema": schema})
    assert [reason.values["path"] for reason in found] == ["(all)", "age"]


def test_both_languages_have_every_text():
    words = (Path(app.__file__).parent / "static" / "words.js").read_text()
    english, chinese = words.split("\n  zh: {")
    keys = [set(re.findall(r'^    "?([a-z-]+)"?: "', part, re.MULTILINE)) for part in (english, chinese)]
    assert keys[0] == keys[1]
    source = Path(WHY["correctness"].__code__.co_filename).read_text()
    codes = set(re.findall(r'"([a-z]+(?:-[a-z]+)*)"(?=, (?:False|True|good|not|n ==|name in|share)| if )', source))
    codes |= set(re.findall(r'else "([a-z-]+)", ', source))
    assert len(codes) > 30
    assert codes <= keys[0], codes - keys[0]
    for key in keys[0]:
        lines = re.findall(rf'^    "?{key}"?: "(.*)",$', words, re.MULTILINE)
        one, other = (set(re.findall(r"\{([a-z_]+)\}", line)) for line in lines)
        assert one == other, key
