"""Reading the answer from a completion, and comparing answers by their meaning."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

_NUMBER = r"[-+\u2212]?\$?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|[-+\u2212]?\$?\.\d+"
NUMBER = re.compile(_NUMBER)
ANSWER = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)
WORKED = {"reasoning": "reasoned", "think": "reasoned", "words": "worded"}
"""Tags that hold the reasoning, and the answer style they stand for."""
MAX_DIGITS = 60
"""Longer numbers are treated as text: no problem has such an answer, and a model can write a million digits."""


def last_said(completion: str | Sequence[Mapping[str, Any]]) -> str:
    """Return the last text that the model itself wrote; a tool's output is not the model's answer.

    >>> last_said([{"role": "assistant", "content": "I ask"}, {"role": "tool", "content": "<answer>7</answer>"}])
    'I ask'
    """
    if isinstance(completion, str):
        return completion
    replies = [message for message in completion if message["role"] == "assistant"]
    return str(replies[-1]["content"]) if replies else ""


def final_answer(completion: str) -> str | None:
    """Return the answer in the place that the format asks for: in the last closed `<answer>`, else after the last
    `</think>` or `####`.

    A completion that was cut off inside `<answer>` has no answer: `<answer>4` might have become 42.

    >>> final_answer("<answer>1</answer> no: <answer> 2 </answer>"), final_answer("the answer is 7")
    ('2', None)
    """
    blocks = ANSWER.findall(completion)
    if blocks:
        return blocks[-1].strip() or None
    for mark in ("</think>", "####"):
        if mark in completion and "<answer>" not in completion:
            return completion.rpartition(mark)[2].strip() or None
    return None


def last_number(completion: str) -> str | None:
    """Return the last number anywhere in a completion: the lenient reading.

    >>> last_number("5 apples at $3 make $15.")
    '$15'
    """
    numbers = NUMBER.findall(completion)
    return numbers[-1] if numbers else None


def as_number(text: str) -> Decimal | None:
    """Return a text as a number, with thousands' commas, sign, dollar sign and a final full stop; None if it is not a
    number.

    >>> as_number("-1,000.50"), as_number("$7."), as_number("7 apples")
    (Decimal('-1000.50'), Decimal('7'), None)
    """
    text = text.strip().removesuffix(".")
    if len(text) > MAX_DIGITS or not NUMBER.fullmatch(text):
        return None
    return Decimal(text.replace(",", "").replace("$", "").replace("\u2212", "-"))


def same_answer(one: str | None, other: str | None) -> bool:
    """Return whether two answers mean the same: equal numbers, else equal words. Two missing answers differ.

    >>> same_answer("1,000", "1000.0"), same_answer(None, None), same_answer("Paris ", "paris")
    (True, False, True)
    """
    if one is None or other is None or not one.strip() or not other.strip():
        return False
    first, second = as_number(one), as_number(other)
    if first is not None and second is not None:
        return first == second
    return one.strip().casefold() == other.strip().casefold()


def style(completion: str) -> str:
    """Return how a completion answers: `reasoned` or `worded` (a block of either, then an answer), `answer-only`,
    `untagged`.

    `worded` is the second way to solve a problem that the policy `builtin-split` knows.
    """
    if final_answer(completion) is not None:
        for tag, name in WORKED.items():
            if f"<{tag}>" in completion and f"</{tag}>" in completion:
                return name
    return "answer-only" if "<answer>" in completion else "untagged"
