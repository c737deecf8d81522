"""Multiple choice: reading the chosen letter from the usual ways to write it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..data.answers import after_thought, final_answer
from ..data.numbers import COMMANDS

NO_SECOND = r"(?![\w'])(?!\s*(?:or|and|/|,|&|或|和|、)\s*\(?[A-J]\b)"
"""Excludes letters that are part of a word (`A` in `Answer`, `I'm`), and second letters: `A or B` is not a choice."""
OPENED = rf"(?:\\(?:{COMMANDS})\s*\{{)*"
ALONE = re.compile(rf"[\s*_$(\[{{]*{OPENED}\(?([A-Ja-j])(?:[\s*_$)\]}}.]*|[).:]+\s.*)", re.DOTALL)
STATED = re.compile(
    r"(?:\\boxed\{|(?:[Aa]nswer|ANSWER|[Cc]hoice|[Oo]ption)(?:\s+is)?\s*:?\s*|答案(?:应该)?[是为选]?\s*[:：]?\s*|选\s*)"
    rf"[*_(\[$\s]*{OPENED}[*_(\[$\s]*([A-J]){NO_SECOND}"
)


def multiple_choice(completions: Sequence[str], answer: Sequence[str], **_: object) -> list[float]:
    r"""1.0 where the letter chosen is the reference's (A to J, in `answer`).

    Read from `<answer>`, after `</think>` or `####`, from `\boxed{\mathbf{B}}`, `the answer is (B)`, `答案是B`, else
    from a last line that is a letter. Two letters at once are not a choice, nor is a letter in the running text.

    >>> multiple_choice(["<answer>(B) Paris</answer>", "So the answer is **b**", "A or B"], answer=["B"] * 3)
    [1.0, 0.0, 0.0]
    """
    rights = [chosen_letter(f"<answer>{right}</answer>") for right in answer]
    if None in rights:
        raise ValueError(
            f"multiple-choice needs a letter from A to J as the answer, not {answer[rights.index(None)]!r}"
        )
    return [1.0 if chosen_letter(text) == right else 0.0 for text, right in zip(completions, rights, strict=True)]


def chosen_letter(text: str) -> str | None:
    """Return the letter that a completion chooses, in upper case; None if it chooses none or several.

    >>> chosen_letter("It is not A. The answer is C."), chosen_letter("...\\n(D)"), chosen_letter("A dog")
    ('C', 'D', None)
    """
    final = final_answer(text)
    if final is not None and (alone := ALONE.fullmatch(final)):
        return alone[1].upper()
    said = after_thought(text) if final is None else final
    letters = STATED.findall(said)
    if letters:
        return letters[-1]
    lines = said.strip().rsplit("\n", 1)
    alone = ALONE.fullmatch(lines[-1]) if lines[-1] else None
    return alone[1].upper() if alone and alone[1].isupper() else None
