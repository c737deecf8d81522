"""Generation whose batch shrinks as completions end, for large models on a processor.

`transformers` computes a finished completion to the end of the batch's longest one. On a GPU that is free; on a
processor a step costs in proportion to its rows. The random numbers are drawn for all rows, finished or not, so the
same seed gives the same completions, but for the last bit of a matrix product with fewer rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ..models.precision import SMALL_BYTES
from . import Sampling

SHRINK_AT = 0.8
"""Share of the rows still running at which the others are taken out; each time copies the cache."""


def shrinks(model: Any) -> bool:
    """Whether the batch is to shrink for a model: a large one on a processor, whose layers all attend to everything."""
    kinds = getattr(model.config, "layer_types", None) or ["full_attention"]
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    return model.device.type == "cpu" and size >= SMALL_BYTES and set(kinds) == {"full_attention"}


def complete(
    model: Any,
    ids: torch.Tensor,
    mask: torch.Tensor,
    cache: Any,
    sampling: Sampling,
    *,
    ends: Sequence[int],
    check: Any,
) -> torch.Tensor:
    """Return the tokens of the completions: shape (rows, T); what follows a row's first end token means nothing.

    Args:
        ids: prompts, padded on the left: shape (rows, P).
        mask: 1 at the prompts' tokens, 0 at padding.
        cache: keys and values of all but the last token of each prompt.
        check: a logits processor that looks at the first token's logits.
    """
    count, stops = len(ids), torch.tensor(list(ends))
    tokens = ids.new_zeros(count, sampling.max_tokens)
    rows, running = torch.arange(count), torch.ones(count, dtype=torch.bool)
    last, positions = ids[:, -1:], mask.sum(dim=1, keepdim=True) - 1
    warp: Any = _warpers(sampling)
    for step in range(sampling.max_tokens):
        output = model(
            input_ids=last,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        scores = warp(last, check(last, output.logits[:, -1].float()))
        chosen = _chosen(scores, rows, count) if sampling.temperature > 0 else scores.argmax(dim=-1)
        tokens[rows, step] = chosen
        running &= ~torch.isin(chosen, stops)
        if not running.any():
            return tokens[:, : step + 1]
        last, positions = chosen[:, None], positions + 1
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        if int(running.sum()) <= SHRINK_AT * len(rows):
            kept = running.nonzero()[:, 0]
            cache.batch_select_indices(kept)
            rows, last, positions, mask, running = (x[kept] for x in (rows, last, positions, mask, running))
    return tokens


def _chosen(scores: torch.Tensor, rows: torch.Tensor, count: int) -> torch.Tensor:
    """Draw a token for each of `rows`, as `torch.multinomial` does for a batch of `count` rows."""
    noise = torch.empty(count, scores.shape[1]).exponential_(1)
    return (scores.softmax(dim=-1) / noise[rows]).argmax(dim=-1)


def _warpers(sampling: Sampling) -> LogitsProcessorList:
    """Return what `transformers` does to the logits for these settings, in its order."""
    found: list[LogitsProcessor] = []
    if sampling.temperature not in (0.0, 1.0):
        found.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.temperature > 0 and sampling.top_k:
        found.append(TopKLogitsWarper(top_k=sampling.top_k))
    if sampling.temperature > 0 and sampling.top_p < 1.0:
        found.append(TopPLogitsWarper(top_p=sampling.top_p))
    return LogitsProcessorList(found)
