"""The learning signal of an organisation's prompts: groups of completions by the base model, with their rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

EQUAL_REWARDS = 1e-6
"""Rewards of a group that differ by at most this much are equal, as in training."""


@dataclass(frozen=True, slots=True)
class SampledGroup:
    """The completions of one prompt: each one's weighted reward, and whether it was cut off."""

    rewards: Sequence[float]
    truncated: Sequence[bool]

    @property
    def zero_variance(self) -> bool:
        """Return whether all rewards are equal, so that every advantage is zero."""
        return max(self.rewards) - min(self.rewards) <= EQUAL_REWARDS


def described(groups: list[SampledGroup]) -> str:
    """Return the share of groups without reward variance and the share of completions that were cut off."""
    same = sum(group.zero_variance for group in groups)
    cut = [one for group in groups for one in group.truncated]
    return (
        f"{same} of {len(groups)} groups of {len(groups[0].rewards)} completions have zero reward variance; "
        f"{sum(cut)} of {len(cut)} completions are truncated"
    )


def signal_warnings(groups: list[SampledGroup]) -> list[str]:
    """Return warnings if no group has reward variance, or if every completion is truncated."""
    warnings: list[str] = []
    if groups and all(group.zero_variance for group in groups):
        warnings.append(
            f"All {len(groups)} sampled groups have zero reward variance, so they give no learning signal: GRPO learns "
            "from the differences within a group. Compare the completions above with the format that the rewards "
            "expect (prompt.system), give easier problems or partial rewards, or sample more: --samples 16."
        )
    if groups and all(all(group.truncated) for group in groups):
        warnings.append(
            "All sampled completions are truncated: they reach grpo.max-completion-length before the model ends "
            "them, so a reward for the final answer seldom pays. Raise grpo.max-completion-length (and "
            "policy.max-new-tokens), or ask for shorter answers in prompt.system."
        )
    return warnings
