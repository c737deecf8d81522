"""TRL's batches, before their loss is taken: what has nothing to teach is left out, and who sampled is told. Pure."""

from __future__ import annotations

from typing import Any

import torch

from ....common.settings.grpo import GRPO

Batch = dict[str, Any]
PER_COMPLETION = ("advantages", "completion_ids", "completion_mask", "prompt_ids", "prompt_mask")
MAY_BE_THERE = ("old_per_token_logps", "sampling_per_token_logps", "tool_mask")
MEAN_OVER_COMPLETIONS = ("grpo", "dr_grpo", "sapo", "luspo")
"""Losses that divide by the number of completions; `bnpo` divides by the tokens of the pass, the others by those of
the whole batch, which does not change here."""


def with_signal(batch: Batch, settings: GRPO) -> tuple[Batch | None, float]:
    """The completions of a pass that have a gradient, and what their loss counts for.

    Without a KL term, each term of every GRPO loss has its completion's advantage as a factor. Where that is 0 (every
    completion of a group without variance), forward and backward pass give zeros. They are left out, and with them the
    columns that are only padding then; the loss of the rest is to be multiplied by the returned share, so that loss
    and gradient are those of the whole batch.

    Returns:
        (the smaller batch, share of the loss's denominator in it); (None, 0) where nothing is left.
    """
    if settings.beta != 0:
        return batch, 1.0
    mask = batch["completion_mask"] * batch.get("tool_mask", 1)
    keep = (batch["advantages"] != 0) & (mask.sum(dim=1) > 0)
    if not keep.any():
        return None, 0.0
    share = 1.0
    if settings.loss_type in MEAN_OVER_COMPLETIONS:
        share = keep.float().mean().item()
    elif settings.loss_type == "bnpo":
        share = (mask[keep].sum() / mask.sum()).item()
    kept = batch | {name: batch[name][keep] for name in (*PER_COMPLETION, *MAY_BE_THERE) if name in batch}
    return _trimmed(kept), share


def _trimmed(batch: Batch) -> Batch:
    """Without the columns that are padding in every row: prompts are padded on the left, completions on the right."""
    width = int(batch["prompt_mask"].sum(dim=1).max())
    columns = torch.arange(batch["completion_ids"].shape[1], device=batch["completion_ids"].device)
    length = int((batch["completion_mask"] * (columns + 1)).max())
    of_prompts = {name: batch[name][:, -width:] for name in ("prompt_ids", "prompt_mask")}
    per_token = ("completion_ids", "completion_mask", *MAY_BE_THERE)
    return batch | of_prompts | {name: batch[name][:, :length] for name in per_token if name in batch}


def take_as_old_policy(batch: Batch) -> None:
    """Take the sampler's log-probabilities, where the batch has some, for those of the old policy.

    The probability ratio is then that of the policy to what was really sampled from, clipped as always: importance
    sampling that corrects for the difference between vLLM and the trainer, without a pass of its own. A token whose
    log-probability the sampler could not tell (NaN) is left out of the loss.
    """
    sampled = batch.get("sampling_per_token_logps")
    if sampled is None:
        return
    known = ~sampled.isnan()
    if not known.all():
        batch["tool_mask"] = batch.get("tool_mask", torch.ones_like(batch["completion_mask"])) * known
    batch["sampling_per_token_logps"] = batch["old_per_token_logps"] = sampled.nan_to_num(nan=0.0)
