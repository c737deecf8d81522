"""Batches of the cold start: word problems with demonstrations, and drills of single steps."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerFast

from .demonstrations import Recipe, asked
from .policy_model import PAD
from .world import RESULT_BELOW, calculate, problems

BATCH, EXAMPLES = 32, 40_000
IGNORED = -100


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of a prompt and its demonstration; the `silent` tokens of the demonstration carry no loss."""

    prompt: list[int]
    demonstration: list[int]
    silent: slice

    def labels(self) -> list[int]:
        """Return the token to predict at each position, IGNORED where there is no loss."""
        labels = list(self.demonstration)
        labels[self.silent] = [IGNORED] * len(labels[self.silent])
        return [IGNORED] * len(self.prompt) + labels


def examples(tokenizer: PreTrainedTokenizerFast, recipe: Recipe, seed: int) -> list[Example]:
    """Return the word problems of the cold start with their demonstrations, all correct."""
    rng = random.Random(f"style/{seed}")
    data = problems("cold", EXAMPLES, seed)
    demonstrations = [recipe.demonstrate(rng, problem) for problem in data]
    prompts = [f"<|user|>{problem.question}<|end|><|assistant|>" for problem in data]
    texts = [demonstration.text + "<|end|>" for demonstration in demonstrations]
    ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    answers = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return [Example(p, a, d.silent) for p, a, d in zip(ids, answers, demonstrations, strict=True)]


def word_batches(data: list[Example], seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (ids, labels), both of shape (BATCH, length), forever; problems of similar length share a batch."""
    rng = random.Random(seed)
    while True:
        shuffled = rng.sample(data, len(data))
        for start in range(0, len(data) - BATCH * 8 + 1, BATCH * 8):
            chunk = sorted(shuffled[start : start + BATCH * 8], key=lambda e: len(e.prompt) + len(e.demonstration))
            batches = [chunk[i : i + BATCH] for i in range(0, len(chunk), BATCH)]
            for batch in rng.sample(batches, len(batches)):
                rows = [e.prompt + e.demonstration for e in batch]
                yield _padded(rows, PAD), _padded([e.labels() for e in batch], IGNORED)


def drill_batches(
    tokenizer: PreTrainedTokenizerFast, recipe: Recipe, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield batches of drills, rows of single steps in one notation, with loss on the results only."""
    rng, notation = random.Random(f"drill/{seed}"), random.Random(f"notation/{seed}")
    facts = {
        operator: [
            (x, operator, y)
            for x, y in itertools.product(range(2, RESULT_BELOW), range(2, RESULT_BELOW))
            if 0 < calculate(x, operator, y) < RESULT_BELOW and (y <= 15 or x <= 15) and (operator != "*" or y < 10)
        ]
        for operator in "+-*"
    }
    while True:
        rows, labels = [], []
        for _ in range(BATCH):
            how = notation.choice(recipe.styles)
            row: list[int] = []
            label: list[int] = []
            for x, operator, y in (rng.choice(facts[rng.choice("+-*")]) for _ in range(9)):
                question, result = tokenizer([asked(how, x, operator, y), f"{calculate(x, operator, y)}\n"])[
                    "input_ids"
                ]
                row += question + result
                label += [IGNORED] * len(question) + result[:1] + [IGNORED] * (len(result) - 1)
            rows.append(row)
            labels.append(label)
        yield _padded(rows, PAD), _padded(labels, IGNORED)


def _padded(rows: list[list[int]], value: int) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])
