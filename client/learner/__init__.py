"""The learner: the only place with a model, data and rewards.

This file holds the interface that every learner has; it imports no torch.
"""

from __future__ import annotations

from typing import Protocol

from ...common.messages.messages import (
    Capabilities,
    EvaluateTask,
    Evaluation,
    SecaggReply,
    SecaggRequest,
    SumPart,
    TrainTask,
    Update,
)


class Learner(Protocol):
    """The requests that a client answers, with a model in this process or behind a socket."""

    def capabilities(self) -> Capabilities:
        """Return the organisation's name, the adapter it trains, and how many prompts it has."""
        ...

    def train(self, task: TrainTask) -> Update:
        """Run one round of local GRPO, starting from the task's adapter."""
        ...

    def evaluate(self, task: EvaluateTask) -> Evaluation:
        """Answer the held-out problems with the task's adapter."""
        ...


class SummedLearner(Protocol):
    """The requests of a run in which results leave only as parts of a sum (privacy.mode)."""

    def capabilities(self) -> Capabilities:
        """Return the organisation's name, the adapter it trains, and how many prompts it has."""
        ...

    def part(self, task: TrainTask | EvaluateTask) -> SumPart:
        """Do a task, and return its part of a sum, or the keys for it."""
        ...

    def step(self, request: SecaggRequest) -> SecaggReply:
        """Take the next step of a sum."""
        ...
