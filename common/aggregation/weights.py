"""How much each client counts, before cap and floor: the choices of `aggregation.weights`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean

from ..plugins import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientReport:
    """What a client reported for a round, and what is known of its earlier rounds."""

    metrics: Mapping[str, float]
    num_examples: int
    """Prompts trained on."""
    num_steps: int = 1
    """Optimizer steps taken."""
    past_rewards: tuple[float, ...] = ()
    """Its mean rewards in its last rounds that counted, oldest first; empty where it does not report them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """One way to weigh clients."""

    of: Callable[[ClientReport], float]
    """A client's weight: finite and >= 0; 0 leaves the client out."""
    metrics: tuple[str, ...] = ()
    """Training metrics it cannot do without: a client that does not report them cannot join."""
    summary: str
    """One line for people."""
    most: Callable[[int, int], float] | None = None
    """(prompts of a round, tokens of a round at most) -> the largest weight that a client can have; secure aggregation
    adds up weights as shares of it. None: the rule needs what the server does not see there."""


def effective_groups(report: ClientReport) -> float:
    """Count the groups whose rewards differ.

    Adam gives a client without any such group an update of the same size as the others', so counting examples would let
    it drown those who learned something.
    """
    return report.metrics["groups/effective"]


def examples(report: ClientReport) -> float:
    """Count the prompts, as federated averaging does (McMahan et al. 2017, arXiv:1602.05629)."""
    return float(report.num_examples)


def tokens(report: ClientReport) -> float:
    """Count the tokens trained on."""
    return report.metrics["tokens/total"]


def uniform(report: ClientReport) -> float:
    """Count every client alike."""
    return 1.0


def relative_gain(report: ClientReport) -> float:
    """Return exp(z) with z, within -1 and 1, the rise of the mean reward over that of the client's last rounds, in
    standard deviations of the reward within a group: the same whatever units the rewards have. (The spread over a
    whole batch holds how much harder some prompts are than others, and would make every z small.) Without history it
    is 1.
    """
    rise = report.metrics["reward/mean"] - fmean(report.past_rewards) if report.past_rewards else 0.0
    spread = max(report.metrics["reward/group-std"], 1e-6)
    return math.exp(min(1.0, max(-1.0, rise / spread)))


def _complaint(entry: object) -> str:
    return "" if isinstance(entry, Weight) else "is not a fedgrpo.common.aggregation.weights.Weight"


WEIGHTS: Table[Weight] = Table(
    "fedgrpo.weights",
    {
        "effective-groups": Weight(
            of=effective_groups,
            metrics=("groups/effective", "groups/zero-variance-share"),
            summary="groups whose rewards differ",
            most=lambda prompts, tokens: float(prompts),
        ),
        "examples": Weight(
            of=examples,
            summary="prompts trained on, as in federated averaging",
            most=lambda prompts, tokens: float(prompts),
        ),
        "tokens": Weight(
            of=tokens,
            metrics=("tokens/total",),
            summary="tokens trained on",
            most=lambda prompts, tokens: float(tokens),
        ),
        "uniform": Weight(of=uniform, summary="every client alike", most=lambda prompts, tokens: 1.0),
        "relative-gain": Weight(
            of=relative_gain,
            metrics=("reward/mean", "reward/group-std"),
            summary="rise of the mean reward over the client's own last rounds, in standard deviations of its groups",
        ),
    },
    _complaint,
)
"""The choices of `aggregation.weights`."""
