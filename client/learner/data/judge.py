"""Judging a completion: the one definition of right, by which training, evaluation and rewards count."""

from __future__ import annotations

from dataclasses import dataclass

from .answers import final_answer, last_number, same_answer, style


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A completion's answer, and whether it is the reference's."""

    strict_answer: str | None
    """The answer where the format requires it; None if there is none."""
    last_number: str | None
    """The last number anywhere in the completion."""
    strict: bool
    """Whether `strict_answer` is right."""
    lenient: bool
    """Whether `last_number` is right."""
    style: str


def judge(text: str, reference: str | None) -> Judgement:
    """Judge what the model wrote against the reference answer; without a reference nothing is right.

    >>> judgement = judge("<answer>8</answer> and not 7", "8")
    >>> judgement.strict, judgement.lenient, judgement.style
    (True, False, 'answer-only')
    """
    strict, last = final_answer(text), last_number(text)
    return Judgement(
        strict_answer=strict,
        last_number=last,
        strict=same_answer(strict, reference),
        lenient=same_answer(last, reference),
        style=style(text),
    )


def is_right(text: str, reference: str) -> bool:
    """Return whether a completion is right by the strict reading."""
    return same_answer(final_answer(text), reference)
