"""Statistics of the texts of training completions, for the reward-hacking warnings. They need the completion text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..data.answers import WORKED, final_answer
from ..data.numbers import as_number

REASONING = re.compile(rf"<({'|'.join(WORKED)})>(.*?)</\1>", re.DOTALL)
NGRAM = 4
LOOP_TOKENS = 24
"""Shorter completions do not count as loops."""
LOOP_SHARE = 0.5


@dataclass(slots=True)
class CompletionStats:
    """Counts over the completions of a round."""

    completions: int = 0
    answered: int = 0
    empty: int = 0
    loops: int = 0
    wrong: Counter[str] = field(default_factory=Counter[str])
    """Wrong answers by their meaning (`meaning`), with how often each was given."""

    def add(self, texts: Sequence[str], correct: Sequence[bool], tokens: Sequence[Sequence[int]]) -> None:
        """Count completions: their texts, which are correct by the strict reading, and their token ids."""
        for text, is_correct, ids in zip(texts, correct, tokens, strict=True):
            answer = final_answer(text)
            self.completions += 1
            self.answered += answer is not None
            self.empty += reasons_emptily(text)
            self.loops += repetition(ids) >= LOOP_SHARE
            if answer is not None and not is_correct:
                self.wrong[meaning(answer)] += 1

    def shares(self) -> dict[str, float]:
        """Return the metrics: each a share of the completions."""
        top = max(self.wrong.values(), default=0)
        counts = {
            "answered": self.answered,
            "empty-reasoning": self.empty,
            "repeated-answer": top,
            "loop": self.loops,
        }
        return {f"completion/{name}-share": count / max(self.completions, 1) for name, count in counts.items()}


def reasons_emptily(text: str) -> bool:
    """Return whether a completion has reasoning tags without a letter or digit between any of them.

    >>> reasons_emptily("<think> ... </think>4"), reasons_emptily("<think>2+2</think>4"), reasons_emptily("4")
    (True, False, False)
    """
    blocks = [inside for _, inside in REASONING.findall(text)]
    return bool(blocks) and not any(character.isalnum() for inside in blocks for character in inside)


def repetition(tokens: Sequence[int]) -> float:
    """Return the share of 4-grams that occurred before: seq-rep-4 of Welleck et al. 2020 (arXiv:1908.04319, eq. 10).

    0 for fewer than 24 tokens, where a calculation or two repeats as much.

    >>> repetition([1, 2] * 50) > 0.9, repetition(list(range(100))), repetition([1, 2] * 5)
    (True, 0.0, 0.0)
    """
    if len(tokens) < LOOP_TOKENS:
        return 0.0
    grams = [tuple(tokens[i : i + NGRAM]) for i in range(len(tokens) - NGRAM + 1)]
    return 1 - len(set(grams)) / len(grams)


def meaning(answer: str) -> str:
    """Return a text that is equal for two answers if they are the same answer (`answers.same_answer`).

    >>> meaning("1,000") == meaning("1000.0"), meaning(" Paris") == meaning("paris")
    (True, True)
    """
    number = as_number(answer)
    return answer.strip().casefold() if number is None else f"{number.normalize():f}"
