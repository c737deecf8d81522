"""Rewards for word problems: the five of the GSM8K recipe, the `<think>` pair, the strict `####`, partial credit.

Each takes completions as plain text and returns one number per completion; any text has a reward. Errors of the
published versions are fixed here: a strict pattern without DOTALL never matches reasoning of several lines; `isdigit`
rejects negative numbers and commas; the XML count penalised a completion without `</answer>` for its whole length.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal

from ..data.answers import after_thought, final_answer, same_answer
from ..data.judge import is_right
from ..data.numbers import as_number, last_numbers

TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")
MARKS = ("<reasoning>\n", "\n</reasoning>\n", "\n<answer>\n", "\n</answer>")
"""The tags, each on its own line."""
HASHES = re.compile(r"#{4,}")
LAST_NUMBERS = 8
"""How many of a completion's last numbers can earn partial credit."""
STRICT = re.compile(r"<reasoning>\n.*\n</reasoning>\n<answer>\n.*\n</answer>\n?", re.DOTALL)


def correctness(completions: Sequence[str], answer: Sequence[str], **_: object) -> list[float]:
    """2.0 where a completion's final answer equals the reference's, else 0.0.

    Numbers are compared as numbers: `1,000` and `1000.0` are the same answer. Two missing answers do not match.

    >>> correctness(["<answer>1,000</answer>", "1000"], answer=["1000"] * 2)
    [2.0, 0.0]
    """
    pairs = zip(completions, answer, strict=True)
    return [2.0 if is_right(text, right) else 0.0 for text, right in pairs]


def hash_correctness(completions: Sequence[str], answer: Sequence[str], **_: object) -> list[float]:
    """1.0 where a completion ends in `#### ` and the right number, with one such mark in all of it.

    The published strict check accepts the last mark and anything after it: a completion that wrote `#### 18 #### 18` up
    to its limit earned the full reward.

    >>> hash_correctness(["9 + 9 = 18\\n#### 18", "#### 18 #### 18", "#### 18 dollars", "18"], answer=["18"] * 4)
    [1.0, 0.0, 0.0, 0.0]
    """
    pairs = zip(completions, answer, strict=True)
    return [1.0 if same_answer(_hash_answer(text), right) else 0.0 for text, right in pairs]


def number_present(completions: Sequence[str], answer: Sequence[str], **_: object) -> list[float]:
    """0.5 where the reference's number is among the last eight of a completion: partial credit.

    Only the last ones count, so that writing all numbers from 1 to 1000 does not help.

    >>> number_present(["so 9 + 9 makes 18, I think", "1 2 3 4 5 6 7 8 9 10 11"], answer=["18.0", "1"])
    [0.5, 0.0]
    """
    pairs = zip(completions, answer, strict=True)
    return [0.5 if among_the_last(text, as_number(right)) else 0.0 for text, right in pairs]


def integer(completions: Sequence[str], **_: object) -> list[float]:
    """0.5 where the final answer is a whole number, right or wrong.

    >>> integer(["<answer>-1,200</answer>", "<answer>half</answer>"])
    [0.5, 0.0]
    """
    numbers = [as_number(final_answer(text) or "") for text in completions]
    return [0.5 if number is not None and number == number.to_integral_value() else 0.0 for number in numbers]


def strict_format(completions: Sequence[str], **_: object) -> list[float]:
    """0.5 where a completion is exactly a reasoning block and an answer block, each tag once and on its own line.

    >>> strict_format(["<reasoning>\\n1+1\\n=2\\n</reasoning>\\n<answer>\\n2\\n</answer>\\n"])
    [0.5]
    """
    return [0.5 if all(t.count(tag) == 1 for tag in TAGS) and STRICT.fullmatch(t) else 0.0 for t in completions]


def soft_format(completions: Sequence[str], **_: object) -> list[float]:
    """0.5 where the four tags are in order, with anything between and around them."""
    return [0.5 if _in_order(text, TAGS) else 0.0 for text in completions]


def xml_count(completions: Sequence[str], **_: object) -> list[float]:
    """0.125 for each of the four tags that occurs once and on its own line, less 0.001 per character after `</answer>`.

    At least 0. A completion without `</answer>` has no characters after it, so nothing is deducted.

    >>> xml_count(["<reasoning>\\n1\\n</reasoning>\\n<answer>\\n1\\n</answer>", "<reasoning>\\n" + "1" * 500])
    [0.5, 0.125]
    """
    return [max(0.0, _tags(text) - 0.001 * trailing(text)) for text in completions]


def tag_count(completions: Sequence[str], **_: object) -> list[float]:
    """0.125 for each of the four tags that occurs once and on its own line: `xml-count` without the deduction.

    >>> tag_count(["<reasoning>\\n1\\n</reasoning>\\n<answer>\\n1\\n</answer> and so on", "1"])
    [0.5, 0.0]
    """
    return [_tags(text) for text in completions]


def think_format(completions: Sequence[str], **_: object) -> list[float]:
    """0.5 where a completion is one `<think>` block that is not empty, and an answer after it."""
    return [0.5 if _thinks_once(text) else 0.0 for text in completions]


def _hash_answer(text: str) -> str | None:
    number = after_thought(text).rpartition("####")[2].strip()
    return number if HASHES.findall(text) == ["####"] and as_number(number) is not None else None


def among_the_last(text: str, right: Decimal | None) -> bool:
    """Return whether a number is among the last LAST_NUMBERS of a text."""
    return right is not None and any(as_number(number) == right for number in last_numbers(text, LAST_NUMBERS))


def _tags(text: str) -> float:
    return sum(0.125 * (text.count(mark) == 1) for mark in MARKS)


def trailing(text: str) -> int:
    """Return the number of characters after the last `</answer>`; 0 without that tag."""
    _, tag, after = text.rpartition("</answer>")
    return len(after.removeprefix("\n")) if tag else 0


def _thinks_once(text: str) -> bool:
    before, _, rest = text.partition("<think>")
    thought, _, after = rest.partition("</think>")
    once = text.count("<think>") == text.count("</think>") == 1
    return once and not before.strip() and bool(thought.strip()) and bool(after.strip())


def _in_order(text: str, marks: Sequence[str]) -> bool:
    start = 0
    for mark in marks:
        position = text.find(mark, start)
        if position < 0:
            return False
        start = position + len(mark)
    return True
