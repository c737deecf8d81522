"""Reading the answer from a completion, and comparing answers by their meaning."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from .numbers import as_number, mentioned

ANSWER = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)
WORKED = {"reasoning": "reasoned", "think": "reasoned", "words": "worded"}
"""Tags that hold the reasoning, and the answer style they stand for."""


def last_said(completion: str | Sequence[Mapping[str, Any]]) -> str:
    """Return the last text that the model itself wrote; a tool's output is not the model's answer.

    >>> last_said([{"role": "assistant", "content": "I ask"}, {"role": "tool", "content": "<answer>7</answer>"}])
    'I ask'
    """
    if isinstance(completion, str):
        return completion
    replies = [message for message in completion if message["role"] == "assistant"]
    return str(replies[-1]["content"]) if replies else ""


def after_thought(completion: str) -> str:
    """Return what follows the thoughts of a completion: after its last `</think>`; all of it, if it has no thoughts.

    Only this is said; what thoughts mention is not. A completion that was cut off inside `<think>` says nothing.

    >>> after_thought("<think>41?</think> 42"), after_thought("42"), after_thought("<think>It is 4")
    (' 42', '42', '')
    """
    rest = completion.rpartition("</think>")[2]
    return "" if rest.lstrip().startswith("<think>") else rest


def final_answer(completion: str) -> str | None:
    """Return the answer in the place that the format asks for, after the thoughts: in the last closed `<answer>`, else
    after the last `####`; else, if there were thoughts, all that follows them.

    A completion that was cut off inside `<answer>` has no answer: `<answer>4` might have become 42.

    >>> final_answer("<answer>1</answer> no: <answer> 2 </answer>"), final_answer("the answer is 7")
    ('2', None)
    """
    rest = after_thought(completion)
    block = deque(ANSWER.finditer(rest), maxlen=1)
    if block:
        return block[0][1].strip() or None
    if "<answer>" in rest:
        return None
    if "####" in rest:
        return rest.rpartition("####")[2].strip() or None
    return rest.strip() or None if "</think>" in completion else None


def last_number(completion: str) -> str | None:
    """Return the last number anywhere in a completion: the lenient reading.

    >>> last_number("5 apples at $3 make $15."), last_number("between 10-20")
    ('$15', '20')
    """
    last = deque(mentioned(completion), maxlen=1)
    return last[0][0] if last else None


def same_answer(one: str | None, other: str | None) -> bool:
    """Return whether two answers mean the same: equal numbers, else equal words. Two missing answers differ.

    >>> same_answer("1,000", "$1000.0"), same_answer(None, None), same_answer("Paris ", "paris")
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
