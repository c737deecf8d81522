"""Documents, code, letters and citations are read after the thoughts, and in any usual spelling."""

import pytest
from fedgrpo.client.learner.rewards.choice import chosen_letter, multiple_choice
from fedgrpo.client.learner.rewards.citations import answer_precision, citation_support
from fedgrpo.client.learner.rewards.extraction import json_fields, valid_json
from fedgrpo.client.learner.rewards.gsm8k import hash_correctness
from fedgrpo.client.learner.rewards.program import read_code

RECORD = '{"name": "Ann", "age": 4}'
WRONG = '{"name": "Bob", "age": 5}'


@pytest.mark.parametrize(
    "text",
    [
        RECORD,
        f"<think>\nname is Ann\n</think>\n{RECORD}",
        f"<think>\n```json\n{WRONG}\n```\n</think>\n```json\n{RECORD}\n```",
        f"<think>{WRONG}</think><answer>{RECORD}</answer>",
        f"<answer>\n```json\n{RECORD}\n```\n</answer>",
        f"```json\n{WRONG}\n```\n<answer>{RECORD}</answer>",
        f"```JSON\n{RECORD}\n```",
        f"``` json\n{RECORD}\n```",
        f"```json5\n{RECORD}\n```",
        f"```\n{RECORD}\n```",
        f"````json\n{RECORD}\n````",
        f"~~~json\n{RECORD}\n~~~",
        f"```json\r\n{RECORD}\r\n```",
        f"Here it is:\n```json\n{RECORD}\n```\nDone.",
        f"first ```json\n{WRONG}\n``` then ```json\n{RECORD}\n```",
        f"so\n#### {RECORD}",
    ],
)
def test_json_is_found_in_any_usual_place(text):
    assert json_fields([text], [RECORD]) == [1.0]


def test_a_mark_inside_the_document_is_part_of_it():
    for value in ("Ann #### 4", "<answer>5</answer>", "```json"):
        record = f'{{"name": "{value}"}}'
        assert json_fields([record], [record]) == [1.0]


@pytest.mark.parametrize(
    "text",
    [
        f"<think>{RECORD}</think>",
        f"<think>{RECORD}",
        f"<answer>{RECORD}",
        f"```json\n{RECORD}",
        f"```json\n{RECORD}\n~~~",
        f"```python\n{RECORD}\n```",
        f"{RECORD} {RECORD}",
        f"~~~json\n{RECORD}\n~~~ or ```json\n{{\n```",
    ],
)
def test_json_in_the_thoughts_cut_off_or_twice_is_none(text):
    assert valid_json([text]) == [0.0]


@pytest.mark.parametrize(
    "fence", ["```python\n{}```", "```Python\r\n{}```", "~~~py\n{}~~~", "```\n{}```", "```python3\n{}```"]
)
def test_code_is_found_after_the_thoughts_in_any_usual_fence(fence):
    code, wrong = "def f(): return 1\n", "def f(): return 2\n"
    assert read_code(f"<think>{fence.format(wrong)}</think>{fence.format(code)}") == code
    assert read_code(f"<think>{fence.format(wrong)}</think>") is None


@pytest.mark.parametrize(
    "text",
    [
        r"\boxed{\mathbf{B}}",
        r"So $\boxed{\textbf{(B)}\ 5}$",
        r"<answer>\boxed{\mathrm{B}}</answer>",
        r"<answer>$\mathbf{B}$</answer>",
        r"The answer is $\mathbf{(B)}$.",
        r"<think>The answer is A.</think>\boxed{\text{B}}",
        "<think>The answer is A.</think>The answer is B.",
    ],
)
def test_a_letter_is_read_in_any_type_and_not_from_the_thoughts(text):
    assert multiple_choice([text], ["B"]) == [1.0]
    assert chosen_letter("<think>The answer is A.</think>") is None


def test_citations_and_words_of_the_thoughts_do_not_count():
    documents = ['{"d1": "on the Seine", "d2": "on the Rhine"}']
    text = "<think>Rhine [d2]?</think>Seine [d1]"
    assert citation_support([text], ["Seine"], documents=documents) == [1.0]
    assert answer_precision([text, "<think>Seine"], ["Seine"] * 2) == [1.0, 0.0]


def test_the_strict_mark_in_thoughts_that_never_end_is_not_paid():
    assert hash_correctness(["<think>so\n#### 4", "<think>so</think>\n#### 4"], ["4", "4"]) == [0.0, 1.0]
