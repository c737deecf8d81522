"""Probes of an exported model, to check that it is unchanged: texts, token ids, logits."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from ...common.errors import RunError

TEXTS = (
    "If 17 apples cost $34.50, what do 3 cost?\n<reasoning>\n3 * 34.5 / 17 = 6.09\n</reasoning>\n<answer>6.09</answer>",
    "The 2nd of 1,000,000 and 007: 12345678901234567890, 3.14159, 1/2, 50%.\r\n\r\n\tTabs,  two  and   three \n \n",
    "I'm sure they've said it'd work; WE'LL see, DON'T we? a1b2c3 x_1==y2 != (z) && [q] {r} <s> #### 42",
    "naïve café, Straße, ¿qué?, 中文与数字123, 日本語, Привет, שלום, नमस्ते, ½ ² ٣, 🙂👩\u200d⚕️…",
    "def f(x):\n    return x ** 2  # square\n\n\nprint(f(3))\n",
)


@dataclass(frozen=True, slots=True)
class OutputDifference:
    """The difference between two models' logits, over all positions of the probes."""

    logits: float
    """The largest difference of a logit."""
    relative: float
    """The same, in units of the largest logit."""
    same_token: float
    """Share of positions at which both have the same most likely token."""
    tokens: int
    """Positions compared."""

    def as_json(self) -> dict[str, float]:
        """Return all fields."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"largest logit difference {self.logits:.2e} ({self.relative:.1e} of the largest logit), same most likely "
            f"token at {self.same_token:.1%} of {self.tokens} positions"
        )


def texts(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the probes, and a chat of two of them as the tokenizer's template renders it."""
    chat = [{"role": "user", "content": TEXTS[0]}, {"role": "assistant", "content": TEXTS[2]}]
    return [*TEXTS, str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))]


def token_ids(tokenizer: PreTrainedTokenizerBase, probes: list[str]) -> list[list[int]]:
    """Return texts as token ids."""
    return [list(tokenizer(text)["input_ids"]) for text in probes]  # pyright: ignore[reportArgumentType]


def logits(model: PreTrainedModel, prompts: list[list[int]]) -> torch.Tensor:
    """Return the logits after every token of the prompts: float32, shape (tokens, vocabulary)."""
    model.eval()
    with torch.inference_mode():
        per_prompt = [model(input_ids=torch.tensor([ids])).logits[0].float() for ids in prompts if ids]
    return torch.cat(per_prompt)


def difference(expected: torch.Tensor, actual: torch.Tensor) -> OutputDifference:
    """Return the difference of `actual` from `expected`; infinite if a number is not finite.

    Raises:
        RunError: they have different vocabularies.
    """
    if expected.shape != actual.shape:
        raise RunError(f"The exported model has {actual.shape[1]} logits, not {expected.shape[1]}.")
    largest = float((expected - actual).abs().max())
    same = float((expected.argmax(1) == actual.argmax(1)).float().mean())
    if not bool(torch.isfinite(actual).all()):
        return OutputDifference(float("inf"), float("inf"), same, len(expected))
    return OutputDifference(largest, largest / float(expected.abs().max()), same, len(expected))
