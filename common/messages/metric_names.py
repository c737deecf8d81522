"""The names of the metrics that clients report: `area/name`, spelled here and nowhere else."""

from __future__ import annotations

TRAIN_METRICS = (
    "reward/mean",
    "reward/std",
    "reward/group-std",
    "groups/zero-variance-share",
    "groups/effective",
    "groups/all-right-share",
    "groups/all-wrong-share",
    "policy/kl",
    "policy/entropy",
    "policy/grad-norm",
    "policy/sampler-gap",
    "completion/mean-length",
    "completion/truncated-share",
    "completion/answered-share",
    "completion/empty-reasoning-share",
    "completion/repeated-answer-share",
    "completion/loop-share",
    "tokens/total",
    "seconds/generate",
    "seconds/reward",
    "seconds/update",
    "seconds/total",
)
"""Reported by every client every round: rewards in the client's own units, lengths in tokens, times in seconds. KL,
entropy and the sampler's gap (nats per token, against the trainer) are over completions that had an advantage, or over
all where there is a KL term."""


def reward_metrics(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the metric names of a client's own reward functions.

    >>> reward_metrics(("correctness",))
    ('reward/correctness/mean', 'reward/correctness/std')
    """
    return tuple(f"reward/{name}/{statistic}" for name in names for statistic in ("mean", "std"))
