"""Log-probabilities of completions, with one pass over each prompt for all completions of its group.

G completions to a prompt of P tokens take a pass over G (P + T) tokens. Here the prompt is computed once, and the
completions attend to its keys and values: P + G T tokens (as in Prefix Grouper, arXiv:2506.05433). Keys and values
stay in the graph, so the gradient is that of the whole sequences, but for the order of floating-point sums.

Array shapes are the suffix of a name: N completions, to U different prompts; S = P + T tokens, where prompts are padded
on the left and completions on the right.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


class Shared(NamedTuple):
    """A batch with each prompt once."""

    prompts_UP: torch.Tensor
    """Token ids of the prompts, without their last token."""
    mask_UP: torch.Tensor
    prompt_of_N: torch.Tensor
    """Row of each completion's prompt."""


def shared_prompts(ids_NS: torch.Tensor, mask_NS: torch.Tensor, tokens: int) -> Shared | None:
    """Return the prompts of a batch, each once; None where no two completions have the same one.

    Args:
        tokens: T, the columns of the completions.
    """
    cut = ids_NS.shape[1] - tokens - 1  # the prompt's last token predicts the first of a completion: it goes with them
    if cut < 1 or not mask_NS[:, cut - 1 : cut + 1].all():
        return None
    mask_NP = mask_NS[:, :cut]
    both_N2P = torch.cat([ids_NS[:, :cut] * mask_NP, mask_NP], dim=1)
    both_U2P, prompt_of_N = torch.unique(both_N2P, dim=0, return_inverse=True)
    if len(both_U2P) == len(ids_NS):
        return None
    return Shared(both_U2P[:, :cut], both_U2P[:, cut:], prompt_of_N)


def logprobs_by_prompt(
    model: Any, ids_NS: torch.Tensor, mask_NS: torch.Tensor, tokens: int, batch_size: int | None = None
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return (log-probabilities, entropies) of the completions' tokens, N x T; 0 where there is padding.

    Args:
        model: a PEFT model with TRL's fused output layer.
        batch_size: completions of a pass; None takes all at once.

    Returns:
        None where a pass over whole sequences is needed: prompts are not shared, the model recomputes its activations,
        or its attention does not keep all keys and values (a sliding window, a state).
    """
    size, parts = batch_size or len(ids_NS), list[tuple[torch.Tensor, torch.Tensor]]()
    for start in range(0, len(ids_NS), size):
        part = _of_one_pass(model, ids_NS[start : start + size], mask_NS[start : start + size], tokens)
        if part is None:
            return None
        parts.append(part)
    return torch.cat([logprobs for logprobs, _ in parts]), torch.cat([entropy for _, entropy in parts])


def _of_one_pass(
    model: Any, ids_NS: torch.Tensor, mask_NS: torch.Tensor, tokens: int
) -> tuple[torch.Tensor, torch.Tensor] | None:
    if not hasattr(model, "get_base_model") or (shared := shared_prompts(ids_NS, mask_NS, tokens)) is None:
        return None
    backbone = model.get_base_model().base_model
    if getattr(backbone, "gradient_checkpointing", False):
        return None
    cache = DynamicCache(config=backbone.config)
    if any(type(layer) is not DynamicLayer for layer in cache.layers):
        return None
    backbone(
        input_ids=shared.prompts_UP,
        attention_mask=shared.mask_UP,
        position_ids=_positions(shared.mask_UP),
        past_key_values=cache,
        use_cache=True,
    )
    if cache.get_seq_length() != shared.prompts_UP.shape[1]:
        return None
    cache.batch_select_indices(shared.prompt_of_N)
    start = ids_NS.shape[1] - tokens
    outputs = model(
        input_ids=ids_NS[:, start - 1 : -1],
        attention_mask=mask_NS[:, :-1],
        position_ids=_positions(mask_NS)[:, start - 1 : -1],
        past_key_values=cache,
        shift_labels=ids_NS[:, start:].masked_fill(mask_NS[:, start:] == 0, -100),
        fused_lm_head=True,
    )
    return outputs.log_probs, outputs.entropy


def _positions(mask: torch.Tensor) -> torch.Tensor:
    """Return the positions of tokens after padding, as sampling counts them."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)
