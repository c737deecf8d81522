"""The log-probability that a model gives each token of a prompt and its completion, with the adapter or without.

N sequences of at most T tokens, V tokens in the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from .adapted_model import AdaptedModel

Values = npt.NDArray[np.float64]

LOGIT_BYTES = 1 << 28
"""Of one forward pass's logits in float32, at most: a large vocabulary allows few sequences at a time."""


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Log-probabilities of the tokens of one sequence, at temperature 1."""

    prompt: Values
    """Of every token but the first."""
    completion: Values


@torch.no_grad()
def likelihoods(
    adapted: AdaptedModel, sequences: Sequence[tuple[list[int], list[int]]], *, base: bool = False
) -> list[Likelihood]:
    """Return the log-probabilities of each (prompt, completion), in token ids.

    Args:
        base: of the base model alone, without the adapter.
    """
    model, order = adapted.model, sorted(range(len(sequences)), key=lambda i: sum(map(len, sequences[i])))
    was_training = model.training
    model.eval()
    found: dict[int, Likelihood] = {}
    try:
        with adapted.base_only() if base else nullcontext():
            for batch in _batches(sequences, order, vocabulary=model.config.vocab_size):
                found |= zip(batch, _batch(model, [sequences[i] for i in batch]), strict=True)
    finally:
        model.train(was_training)
    return [found[i] for i in range(len(sequences))]


def _batches(
    sequences: Sequence[tuple[list[int], list[int]]], order: Sequence[int], *, vocabulary: int
) -> Iterator[list[int]]:
    """Yield sequences of similar length whose logits are small enough together; at least one at a time."""
    batch: list[int] = []
    for i in order:
        length = sum(map(len, sequences[i]))
        if batch and (len(batch) + 1) * length * vocabulary * 4 > LOGIT_BYTES:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _batch(model: torch.nn.Module, sequences: Sequence[tuple[list[int], list[int]]]) -> Iterator[Likelihood]:
    device = next(model.parameters()).device
    rows = [torch.tensor([*prompt, *completion]) for prompt, completion in sequences]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True).to(device)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
    chosen = logits.gather(2, ids[:, 1:, None])[..., 0] - logits.logsumexp(dim=2)
    for values, (prompt, completion) in zip(chosen.double().cpu().numpy(), sequences, strict=True):
        whole = values[: len(prompt) + len(completion) - 1]
        yield Likelihood(whole[: len(prompt) - 1], whole[len(prompt) - 1 :])
