"""The rewards that come with fedgrpo: the five of the GSM8K recipe and the `<think>` pair.

Each takes completions as plain text and returns one number per completion; any text has a reward. Faults of the
published versions are mended here: a strict pattern without DOTALL never matches reasoning of several lines; `isdigit`
refuses negative numbers and commas; the XML count fined a completion without `</answer>` for its whole length.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from .answers import as_number, final_answer, same_answer

TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")
STRICT = re.compile(r"<reasoning>\n.*\n</reasoning>\n<answer>\n.*\n</answer>\n?", re.DOTALL)


def correctness(completions: Sequence[str], answer: Sequence[str], **_: object) -> list[float]:
    """2.0 where a completion's final answer equals the reference's, else 0.0.

    Numbers are compared as numbers: `1,000` and `1000.0` are the same answer. Two missing answers do not match.

    >>> correctness(["<answer>1,000</answer>", "1000"], answer=["1000"] * 2)
    [2.0, 0.0]
    """
    pairs = zip(completions, answer, strict=True)
    return [2.0 if same_answer(final_answer(text), right) else 0.0 for text, right in pairs]


def integer(completions: Sequence[str], **_: object) -> list[float]:
    """0.5 where the final answer is a whole number, right or wrong.

    >>> integer(["<answer>-1,200</answer>", "<answer>half</answer>"])
    [0.5, 0.0]
    """
    numbers = [as_number(final_answer(text) or "") for text in completions]
    return [0.5 if number is not None and number == number.to_integral_value() else 0.0 for number in numbers]


def strict_format(completions: Sequence[str], **_: object) -> list[float]:
    """0.5 where a completion is reasoning and answer, each in its tags once, on lines of their own, and nothing else.

    >>> strict_format(["<reasoning>\\n1+1\\n=2\\n</reasoning>\\n<answer>\\n2\\n</answer>\\n"])
    [0.5]
    """
    return [0.5 if all(t.count(tag) == 1 for tag in TAGS) and STRICT.fullmatch(t) else 0.0 for t in completions]


def soft_format(completions: Sequence[str], **_: object) -> list[float]:
    """0.5 where the four tags stand in their order, with anything between and around them."""
    return [0.5 if _in_order(text, TAGS) else 0.0 for text in completions]


def xml_count(completions: Sequence[str], **_: object) -> list[float]:
    """0.125 for each of the four tags that stands once and on its own line, less 0.001 per character after `</answer>`.

    At least 0. A completion without `</answer>` is not fined: there is nothing after it.

    >>> xml_count(["<reasoning>\\n1\\n</reasoning>\\n<answer>\\n1\\n</answer>", "<reasoning>\\n" + "1" * 500])
    [0.5, 0.125]
    """
    marks = ("<reasoning>\n", "\n</reasoning>\n", "\n<answer>\n", "\n</answer>")
    return [max(0.0, sum(0.125 * (t.count(mark) == 1) for mark in marks) - 0.001 * _trailing(t)) for t in completions]


def think_format(completions: Sequence[str], **_: object) -> list[float]:
    """0.5 where a completion is one `<think>` block that is not empty, and an answer after it."""
    return [0.5 if _thinks_once(text) else 0.0 for text in completions]


FUNCTIONS = {
    "correctness": correctness,
    "integer": integer,
    "strict-format": strict_format,
    "soft-format": soft_format,
    "xml-count": xml_count,
    "think-format": think_format,
}
SETS: dict[str, dict[str, float]] = {
    "gsm8k": dict.fromkeys(("correctness", "integer", "strict-format", "soft-format", "xml-count"), 1.0),
    "think": {"correctness": 1.0, "think-format": 1.0, "integer": 0.5},
    "weighted": {"correctness": 0.25, "soft-format": 0.4, "xml-count": 0.6},
}
"""Named sets with weights. `think` pays 2.0 / 0.5 / 0.25; `weighted` 50 % correctness, 20 % format, 30 % structure."""


def _trailing(text: str) -> int:
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
        found = text.find(mark, start)
        if found < 0:
            return False
        start = found + len(mark)
    return True
