"""Statistics of a round: seconds by phase, groups with and without signal, and the completion statistics.

Array shapes are the suffix of a name: N completions in a batch, in P groups (one per prompt) of G completions each;
T tokens of a completion; F reward functions, or 1 once their rewards are summed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from ....common.settings.grpo import GRPO
from .completion_stats import CompletionStats

EQUAL_REWARDS = 1e-6
"""Rewards of a group that differ by at most this much are equal, or by this share of the largest where it is above 1:
float noise is not a signal. (Rewards are float32, whose own noise is 1e-7 of them.)"""


@dataclass(slots=True)
class RoundStats:
    """Sums over one round of one client."""

    generate_s: float = 0.0
    reward_s: float = 0.0
    total_s: float = 0.0
    sampled_tokens: int = 0
    """Tokens that the sampler returned for training."""
    groups: int = 0
    effective_groups: int = 0
    all_right: int = 0
    """Zero-variance groups in which every completion is correct, by the strict reading."""
    all_wrong: int = 0
    """Zero-variance groups in which every completion is wrong."""
    gap: float = 0.0
    """Sum of |log-probability of the trainer - log-probability of the sampler| over the compared tokens, in nats."""
    compared: int = 0
    """Number of compared tokens."""
    spread: float = 0.0
    """Sum over the groups of the standard deviation of their rewards."""
    signals: list[float] = field(default_factory=list[float])
    """Of each group, in the order of training, the share of its pairs of completions whose rewards differ. It does not
    leave."""
    completion_stats: CompletionStats = field(default_factory=CompletionStats)

    def count(self, effective_P: torch.Tensor, correct: Sequence[bool]) -> None:
        """Count a batch of groups: which have an advantage (`effective_groups`), and which completions are correct."""
        effective_P = effective_P.cpu()
        correct_PG = torch.tensor(correct, dtype=torch.float32).view(len(effective_P), -1)
        shares_P = correct_PG.mean(dim=1)
        self.groups += len(effective_P)
        self.effective_groups += int(effective_P.sum())
        self.all_right += int((~effective_P & (shares_P == 1)).sum())
        self.all_wrong += int((~effective_P & (shares_P == 0)).sum())

    def add_signals(self, signals_P: torch.Tensor) -> None:
        """Keep the signal of a batch of groups (`differing_pairs`)."""
        self.signals += signals_P.tolist()

    def compare(self, logprobs_NT: torch.Tensor, batch: dict[str, torch.Tensor]) -> None:
        """Compare the trainer's log-probabilities with those of the sampler."""
        sampled_NT = batch["sampling_per_token_logps"]
        known_NT = (batch["completion_mask"] * batch.get("tool_mask", 1)).bool() & ~sampled_NT.isnan()
        self.gap += float((logprobs_NT - sampled_NT)[known_NT].abs().sum())
        self.compared += int(known_NT.sum())

    @property
    def group_std(self) -> float:
        """Mean over the groups of the standard deviation of the weighted rewards within a group."""
        return self.spread / self.groups if self.groups else 0.0

    @property
    def sampler_gap(self) -> float:
        """Mean absolute difference of log-probabilities in nats per token; 0 if the model itself samples."""
        return self.gap / self.compared if self.compared else 0.0

    def signal(self) -> dict[str, float]:
        """Return the metrics of groups with and without signal."""
        groups = max(1, self.groups)  # private batches may all be empty
        return {
            "groups/zero-variance-share": 1 - self.effective_groups / groups,
            "groups/effective": float(self.effective_groups),
            "groups/all-right-share": self.all_right / groups,
            "groups/all-wrong-share": self.all_wrong / groups,
        }


def effective_groups(
    rewards_NF: torch.Tensor, weights_F: torch.Tensor, settings: GRPO, cut_off: Sequence[bool] = ()
) -> torch.Tensor:
    """Return which groups have a gradient: those whose rewards differ by more than float noise, and of which the loss
    has a completion.

    Args:
        rewards_NF: NaN where a function returned None. A completion that no function scored is left out of its
            group.
        cut_off: of each completion, whether it reached the token limit: `mask_truncated_completions` takes it out of
            the loss.

    Returns:
        Booleans, shape (P,).
    """
    weighted_PGF = _weighted(rewards_NF, weights_F, settings)
    highest_PF, lowest_PF, noise_PF = _range(weighted_PGF)
    effective_P = (highest_PF - lowest_PF > noise_PF).any(dim=1)
    if settings.mask_truncated_completions and len(cut_off):
        masked_PG = torch.tensor(cut_off, device=effective_P.device).view(len(effective_P), -1)
        effective_P &= ~masked_PG.all(dim=1)
    return effective_P


def differing_pairs(rewards_NF: torch.Tensor, weights_F: torch.Tensor, settings: GRPO) -> torch.Tensor:
    """Return, of each group, the share of its pairs of scored completions whose rewards differ, beyond float noise.

    Where rewards are 0 or 1 it is an unbiased estimate of 2 p (1 - p), the chance that two completions differ. It is
    above 0 exactly where a group's rewards differ, whatever the reward functions, their number and their scale.

    Returns:
        Shape (P,), from 0 to 1.
    """
    weighted_PGF = _weighted(rewards_NF, weights_F, settings)
    *_, noise_PF = _range(weighted_PGF)
    gaps_PGGF = (weighted_PGF[:, :, None] - weighted_PGF[:, None]).abs()  # NaN, which is not above noise, if unscored
    differ_P = (gaps_PGGF > noise_PF[:, None, None]).any(dim=3).sum(dim=(1, 2))
    scored_P = (~weighted_PGF.isnan().all(dim=2)).sum(dim=1)
    return differ_P / (scored_P * (scored_P - 1)).clamp(min=1)


def _weighted(rewards_NF: torch.Tensor, weights_F: torch.Tensor, settings: GRPO) -> torch.Tensor:
    """Return the rewards that advantages are made of, shape (P, G, F), or (P, G, 1) where they are summed first."""
    weighted_NF = rewards_NF * weights_F.to(rewards_NF)
    if settings.multi_objective_aggregation == "sum_then_normalize":
        scored_N1 = ~weighted_NF.isnan().all(dim=1, keepdim=True)
        # nansum alone would give an unscored completion a reward of 0
        weighted_NF = torch.where(scored_N1, weighted_NF.nansum(dim=1, keepdim=True), torch.nan)
    return weighted_NF.view(-1, settings.num_generations, weighted_NF.shape[1])


def _range(weighted_PGF: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return (highest, lowest, difference that is float noise) of each group, each of shape (P, F)."""
    highest_PF = weighted_PGF.nan_to_num(nan=-torch.inf).amax(dim=1)
    lowest_PF = weighted_PGF.nan_to_num(nan=torch.inf).amin(dim=1)
    return highest_PF, lowest_PF, EQUAL_REWARDS * torch.maximum(highest_PF.abs(), lowest_PF.abs()).clamp(min=1.0)


def group_spreads(rewards_NF: torch.Tensor, weights_F: torch.Tensor, settings: GRPO) -> torch.Tensor:
    """Return the standard deviation of the weighted rewards of each group, of its completions that were scored.

    Returns:
        Shape (P,); 0 for a group of which at most one completion was scored.
    """
    unscored_N = rewards_NF.isnan().all(dim=1)
    total_N = (rewards_NF * weights_F.to(rewards_NF)).nansum(dim=1)
    total_PG = torch.where(unscored_N, torch.nan, total_N).view(-1, settings.num_generations)
    count_P1 = (~total_PG.isnan()).sum(dim=1, keepdim=True)
    squares_PG = (total_PG - total_PG.nanmean(dim=1, keepdim=True)) ** 2
    return (squares_PG.nansum(dim=1) / (count_P1[:, 0] - 1).clamp(min=1)).sqrt()
