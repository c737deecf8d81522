"""Changes to TRL's batches before the loss: completions without a gradient are removed. Pure functions.

Array shapes are the suffix of a name: N completions of the pass, T tokens of a completion (padded on the right).
"""

from __future__ import annotations

from typing import Any

import torch

from ....common.settings.grpo import GRPO

Batch = dict[str, Any]
PER_COMPLETION = ("advantages", "completion_ids", "completion_mask", "prompt_ids", "prompt_mask")
OPTIONAL = ("old_per_token_logps", "sampling_per_token_logps", "tool_mask")
MEAN_OVER_COMPLETIONS = ("grpo", "dr_grpo", "sapo", "luspo")
"""Losses that divide by the number of completions. `bnpo` divides by the tokens of the pass, the others by the tokens
of the whole batch, which removing completions does not change."""


def with_signal(batch: Batch, settings: GRPO) -> tuple[Batch | None, float]:
    """Return the completions of a pass that have a gradient, and the factor to multiply their loss by.

    Without a KL term, each term of every GRPO loss has its completion's advantage as a factor. Where that is 0 (every
    completion of a group without variance), forward and backward pass give zeros. They are removed, with the columns
    that then hold only padding. Multiplying the loss of the rest by the returned share gives the loss and the gradient
    of the whole batch.

    Returns:
        (the smaller batch, its share of the loss's denominator); (None, 0) if no completion has a gradient.
    """
    if settings.beta != 0:
        return batch, 1.0
    mask_NT = batch["completion_mask"] * batch.get("tool_mask", 1)
    keep_N = (batch["advantages"] != 0) & (mask_NT.sum(dim=1) > 0)
    if not keep_N.any():
        return None, 0.0
    share = 1.0
    if settings.loss_type in MEAN_OVER_COMPLETIONS:
        share = keep_N.float().mean().item()
    elif settings.loss_type == "bnpo":
        share = (mask_NT[keep_N].sum() / mask_NT.sum()).item()
    kept = batch | {name: batch[name][keep_N] for name in (*PER_COMPLETION, *OPTIONAL) if name in batch}
    return _trimmed(kept), share


def _trimmed(batch: Batch) -> Batch:
    """Return the batch without columns that are padding in every row: prompts are padded on the left, completions on
    the right."""
    width = int(batch["prompt_mask"].sum(dim=1).max())
    columns = torch.arange(batch["completion_ids"].shape[1], device=batch["completion_ids"].device)
    length = int((batch["completion_mask"] * (columns + 1)).max())
    of_prompts = {name: batch[name][:, -width:] for name in ("prompt_ids", "prompt_mask")}
    per_token = ("completion_ids", "completion_mask", *OPTIONAL)
    return batch | of_prompts | {name: batch[name][:, :length] for name in per_token if name in batch}


def take_as_old_policy(batch: Batch) -> None:
    """Use the sampler's log-probabilities, where the batch has them, as those of the old policy.

    The probability ratio is then that of the policy to the distribution that was sampled from, clipped as always. This
    importance sampling corrects the difference between vLLM and the trainer without another forward pass. A token whose
    log-probability the sampler did not return (NaN) is excluded from the loss.
    """
    sampled_NT = batch.get("sampling_per_token_logps")
    if sampled_NT is None:
        return
    known_NT = ~sampled_NT.isnan()
    if not known_NT.all():
        batch["tool_mask"] = batch.get("tool_mask", torch.ones_like(batch["completion_mask"])) * known_NT
    batch["sampling_per_token_logps"] = batch["old_per_token_logps"] = sampled_NT.nan_to_num(nan=0.0)
