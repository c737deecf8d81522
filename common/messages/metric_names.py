"""The metrics that clients report: `area/name`, and what values each can have. Spelled here and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

NOISE = 0.01
"""How far below zero rounding can take the mean of a quantity that is never negative."""
LARGEST_REWARD = 1e9
LARGEST_KL = 1e6
LARGEST_ENTROPY = 30.0
"""Nats: the entropy of a uniform choice among 10^13 tokens."""
LARGEST_NORM = 1e12
LARGEST_TIME_S = 1e7
LARGEST_EPSILON = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundWork:
    """The work of one client in a round, as the run's settings require it: bounds of its metrics follow from it."""

    groups: int
    """Prompts trained on."""
    completions: int
    prompt_tokens: int
    """grpo.max-prompt-length."""
    completion_tokens: int
    """grpo.max-completion-length."""

    @property
    def tokens(self) -> int:
        """Return the largest number of tokens that prompts and completions can have together.

        Definitions of tools, and an environment's opening, lengthen a prompt beyond grpo.max-prompt-length, which
        counts the text of the problem; the samplers allow for twice that length.
        """
        return self.completions * (2 * self.prompt_tokens + self.completion_tokens)


@dataclass(frozen=True, slots=True)
class Range:
    """The values that a metric can have."""

    low: float
    high: float | Callable[[RoundWork], float]
    whole: bool = False
    """Whether it counts something."""

    def complaint(self, value: float, work: RoundWork) -> str:
        """Return what is wrong with a value; empty if it is possible."""
        high = self.high(work) if callable(self.high) else self.high
        if not (math.isfinite(value) and self.low <= value <= high):
            return f"is {value:g}, not from {self.low:g} to {high:g}"
        return f"is {value:g}, not a whole number" if self.whole and not value.is_integer() else ""


REWARD = Range(-LARGEST_REWARD, LARGEST_REWARD)
SPREAD = Range(0.0, LARGEST_REWARD)
SHARE = Range(0.0, 1.0)
SECONDS = Range(0.0, LARGEST_TIME_S)

RANGES: dict[str, Range] = {
    "reward/mean": REWARD,
    "reward/std": SPREAD,
    "reward/group-std": SPREAD,
    "groups/zero-variance-share": SHARE,
    "groups/effective": Range(0.0, lambda work: work.groups, whole=True),
    "groups/all-right-share": SHARE,
    "groups/all-wrong-share": SHARE,
    "policy/kl": Range(-NOISE, LARGEST_KL),
    "policy/entropy": Range(-NOISE, LARGEST_ENTROPY),
    "policy/grad-norm": Range(0.0, LARGEST_NORM),
    "policy/sampler-gap": Range(0.0, LARGEST_KL),
    "completion/mean-length": Range(0.0, lambda work: work.completion_tokens),
    "completion/truncated-share": SHARE,
    "completion/answered-share": SHARE,
    "completion/empty-reasoning-share": SHARE,
    "completion/repeated-answer-share": SHARE,
    "completion/loop-share": SHARE,
    "tokens/total": Range(0.0, lambda work: work.tokens, whole=True),
    "tokens/sampled": Range(0.0, lambda work: work.tokens, whole=True),
    "seconds/generate": SECONDS,
    "seconds/reward": SECONDS,
    "seconds/update": SECONDS,
    "seconds/total": SECONDS,
    "privacy/epsilon": Range(0.0, LARGEST_EPSILON),
}
"""Reported by every client every round: rewards in the client's own units, lengths in tokens, times in seconds. KL,
entropy and the sampler's gap (nats per token, against the trainer) are over completions that had an advantage, or over
all where there is a KL term."""
PRIVATE_METRICS = ("privacy/epsilon",)
"""Reported by a client that trains privately, in place of all others: what it has spent, in all its runs together."""
TRAIN_METRICS = tuple(name for name in RANGES if name not in PRIVATE_METRICS)


def reward_metrics(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the metric names of a client's own reward functions.

    >>> reward_metrics(("correctness",))
    ('reward/correctness/mean', 'reward/correctness/std')
    """
    return tuple(f"reward/{name}/{statistic}" for name in names for statistic in ("mean", "std"))


def range_of(name: str) -> Range:
    """Return the range of a metric: one of TRAIN_METRICS, or of a client's own reward functions.

    >>> range_of("reward/correctness/std") is SPREAD
    True
    """
    return RANGES.get(name) or (SPREAD if name.endswith("/std") else REWARD)
