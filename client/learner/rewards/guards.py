"""Penalties against drift when only the answer is rewarded: length, trailing text, repetition, truncation.

Each returns a number from -1 to 0, so that its weight is the largest possible penalty.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from .gsm8k import trailing

LONG = 4000
"""Characters, about 1,000 tokens of English."""
NGRAM = 4
FREE_SHARE = 0.2
"""Share of repeated n-grams without a penalty: solving a problem repeats numbers and phrases."""
PIECE = re.compile(r"\w{1,8}|[^\w\s]")


def length_penalty(completions: Sequence[str], **_: object) -> list[float]:
    """-1 for 4,000 characters or more, in proportion below.

    >>> length_penalty(["", "a" * 1000, "a" * 9000])
    [0.0, -0.25, -1.0]
    """
    return [-min(1.0, len(text) / LONG) if text else 0.0 for text in completions]


def trailing_text(completions: Sequence[str], **_: object) -> list[float]:
    """-0.001 for each character after the last `</answer>`, down to -1; 0 without such characters or the tag.

    >>> trailing_text(["<answer>4</answer>\\n", "<answer>4</answer>" + "!" * 100, "no tag"])
    [0.0, -0.1, 0.0]
    """
    return [-min(1.0, trailing(text) / 1000) if trailing(text) else 0.0 for text in completions]


def repetition_penalty(completions: Sequence[str], **_: object) -> list[float]:
    """0 down to -1 by the share of 4-grams that occurred before, beyond a fifth of them (after Yeo et al. 2025).

        -(max(0, r - 0.2) / 0.8),  r = 1 - distinct 4-grams / 4-grams           (arXiv:2502.03373, section 4.2)

    The grams are of words, pieces of long words, and marks, so loops without blanks or letters count too.

    >>> repetition_penalty(["She has 3 apples and buys 4 more, so 7 in all."])
    [0.0]
    >>> round(repetition_penalty(["#### " * 200])[0], 2)
    -1.0
    """
    return [-max(0.0, repeated_share(text) - FREE_SHARE) / (1 - FREE_SHARE) or 0.0 for text in completions]


def truncation_penalty(
    completions: Sequence[str], truncated: Sequence[bool] | None = None, **_: object
) -> list[float | None]:
    """-1 where a completion was cut off at the token limit, before the model ended it.

    The trainer knows this from the tokens (`truncated`: no end token); the text alone does not show it. Without that
    column, as in `fedgrpo rewards score`, the reward is left out.

    >>> truncation_penalty(["so 4", "so 4 +"], truncated=[False, True]), truncation_penalty(["so 4"])
    ([0.0, -1.0], [None])
    """
    if truncated is None:
        return [None] * len(completions)
    return [-1.0 if cut else 0.0 for cut in truncated]


def repeated_share(text: str) -> float:
    """Return the share of a text's 4-grams that occurred before in it."""
    pieces = PIECE.findall(text)
    grams = list(zip(*(pieces[start:] for start in range(NGRAM)), strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
