"""The learner: the only place with a model, data and rewards. This file is the seam; it imports no torch."""

from __future__ import annotations

from typing import Protocol

from ...common.messages.messages import Capabilities, EvaluateTask, Evaluation, TrainTask, Update


class Learner(Protocol):
    """What the relay asks of a learner, in this process or behind a socket."""

    def capabilities(self) -> Capabilities:
        """Who we are, the adapter we train, and the prompts we have."""
        ...

    def train(self, task: TrainTask) -> Update:
        """One round of local GRPO from the task's adapter."""
        ...

    def evaluate(self, task: EvaluateTask) -> Evaluation:
        """Answer the held-out problems."""
        ...
