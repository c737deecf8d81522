"""What a round adds up to: seconds by phase, how many groups had anything to teach, and how completions are alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from ....common.settings.grpo import GRPO
from .completion_stats import CompletionStats

EQUAL_REWARDS = 1e-6
"""Rewards of a group that differ by no more than this are equal: float noise is no signal."""


@dataclass(slots=True)
class RoundStats:
    """Sums over one round of one client."""

    generate_s: float = 0.0
    reward_s: float = 0.0
    total_s: float = 0.0
    groups: int = 0
    effective_groups: int = 0
    all_right: int = 0
    """Groups without signal in which every completion is right, by the strict reading."""
    all_wrong: int = 0
    """... and in which none is."""
    gap: float = 0.0
    """Sum of |log-probability of the trainer - of the sampler| over the tokens compared, nats."""
    compared: int = 0
    completion_stats: CompletionStats = field(default_factory=CompletionStats)

    def count(self, effective: torch.Tensor, right: Sequence[bool]) -> None:
        """Count a batch of groups: which have an advantage (`effective_groups`), and which completions are right."""
        effective = effective.cpu()
        shares = torch.tensor(right, dtype=torch.float32).view(len(effective), -1).mean(dim=1)
        self.groups += len(effective)
        self.effective_groups += int(effective.sum())
        self.all_right += int((~effective & (shares == 1)).sum())
        self.all_wrong += int((~effective & (shares == 0)).sum())

    def compare(self, logps: torch.Tensor, batch: dict[str, torch.Tensor]) -> None:
        """Compare the trainer's log-probabilities, shape (B, T), with those of the sampler."""
        sampled = batch["sampling_per_token_logps"]
        known = (batch["completion_mask"] * batch.get("tool_mask", 1)).bool() & ~sampled.isnan()
        self.gap += float((logps - sampled)[known].abs().sum())
        self.compared += int(known.sum())

    @property
    def sampler_gap(self) -> float:
        """Mean difference of log-probabilities, nats per token; 0 where the model itself samples."""
        return self.gap / self.compared if self.compared else 0.0

    def signal(self) -> dict[str, float]:
        """The metrics of groups with and without signal."""
        return {
            "groups/zero-variance-share": 1 - self.effective_groups / self.groups,
            "groups/effective": float(self.effective_groups),
            "groups/all-right-share": self.all_right / self.groups,
            "groups/all-wrong-share": self.all_wrong / self.groups,
        }


def effective_groups(rewards_per_func: torch.Tensor, weights: torch.Tensor, settings: GRPO) -> torch.Tensor:
    """Which groups have an advantage: those whose rewards differ by more than float noise.

    Args:
        rewards_per_func: shape (B * G, F); NaN where a function returned None. A completion that no function scored
            is left out of its group.

    Returns:
        Booleans of shape (B,).
    """
    weighted = rewards_per_func * weights.to(rewards_per_func)
    if settings.multi_objective_aggregation == "sum_then_normalize":
        scored = ~weighted.isnan().all(dim=1, keepdim=True)
        weighted = torch.where(scored, weighted.nansum(dim=1, keepdim=True), torch.nan)
    grouped = weighted.view(-1, settings.num_generations, weighted.shape[1])  # (B, G, F), or (B, G, 1) once summed
    highest = grouped.nan_to_num(nan=-torch.inf).amax(dim=1)
    lowest = grouped.nan_to_num(nan=torch.inf).amin(dim=1)
    return (highest - lowest > EQUAL_REWARDS).any(dim=1)
