"""Reading an answer out of a completion, and comparing answers as what they mean."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

_NUMBER = r"[-+\u2212]?\$?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|[-+\u2212]?\$?\.\d+"
NUMBER = re.compile(_NUMBER)
ANSWER = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)
WORKED = {"reasoning": "reasoned", "think": "reasoned", "words": "worded"}
"""Tags that hold the working, and the style they make."""
MAX_DIGITS = 60
"""Longer numbers are text: no problem has such an answer, and a model can write a million digits."""


def last_said(completion: str | Sequence[Mapping[str, Any]]) -> str:
    """What the model itself wrote last: a tool may say the answer, which is not the model's.

    >>> last_said([{"role": "assistant", "content": "I ask"}, {"role": "tool", "content": "<answer>7</answer>"}])
    'I ask'
    """
    if isinstance(completion, str):
        return completion
    own = [message for message in completion if message["role"] == "assistant"]
    return str(own[-1]["content"]) if own else ""


def final_answer(completion: str) -> str | None:
    """The answer where the format wants it: in the last closed `<answer>`, else after the last `</think>` or `####`.

    A completion that was cut off inside `<answer>` has no answer: `<answer>4` may have been on its way to 42.

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
    """The last number anywhere in a completion: the lenient reading.

    >>> last_number("5 apples at $3 make $15.")
    '$15'
    """
    found = NUMBER.findall(completion)
    return found[-1] if found else None


def as_number(text: str) -> Decimal | None:
    """The number that a text is, with thousands' commas, sign, dollar sign and a final full stop; None if it is none.

    >>> as_number("-1,000.50"), as_number("$7."), as_number("7 apples")
    (Decimal('-1000.50'), Decimal('7'), None)
    """
    text = text.strip().removesuffix(".")
    if len(text) > MAX_DIGITS or not NUMBER.fullmatch(text):
        return None
    return Decimal(text.replace(",", "").replace("$", "").replace("\u2212", "-"))


def same_answer(one: str | None, other: str | None) -> bool:
    """Whether two answers mean the same: equal numbers, else equal words. Two missing answers are not the same.

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
    """How a completion answers: `reasoned` or `worded` (a block of either, then an answer), `answer-only`, `untagged`.

    `worded` is the second way of working a problem out that the policy `builtin-split` knows.
    """
    if final_answer(completion) is not None:
        for tag, name in WORKED.items():
            if f"<{tag}>" in completion and f"</{tag}>" in completion:
                return name
    return "answer-only" if "<answer>" in completion else "untagged"
