"""Simulated clients that go away in the middle of a round. Never part of a real client."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...common.errors import LearnerGoneError
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
from ...common.seeds import derived_seed

STEPS = ("train", "share", "mask", "agree", "open")
"""Of a round with secure aggregation; one without has the first only."""


@dataclass
class DroppingLearner:
    """A learner that is gone from a random step of each round's first attempt on, and back for the next attempt.

    Evaluations are answered. The steps follow from the run's seed, so that a run can be repeated.
    """

    inner: Any
    """A `Learner`, and a `SummedLearner` where updates are seen as sums."""
    name: str
    seed: int
    _first_missed: int = field(default=len(STEPS))
    """Of the sum under way."""

    def capabilities(self) -> Capabilities:
        """Return the capabilities of the inner learner."""
        return self.inner.capabilities()

    def train(self, task: TrainTask) -> Update:
        """Train a round, unless it is gone before."""
        self._begin(task)
        return self.inner.train(task)

    def evaluate(self, task: EvaluateTask) -> Evaluation:
        """Answer the held-out problems."""
        return self.inner.evaluate(task)

    def part(self, task: TrainTask | EvaluateTask) -> SumPart:
        """Do a task whose result is part of a sum, unless it is gone before."""
        self._begin(task)
        return self.inner.part(task)

    def step(self, request: SecaggRequest) -> SecaggReply:
        """Take the next step of a sum, unless it is gone."""
        if STEPS.index(request.step) >= self._first_missed:
            raise LearnerGoneError(f"{self.name} drops out at {request.step} (simulation.faults)")
        return self.inner.step(request)

    def _begin(self, task: TrainTask | EvaluateTask) -> None:
        self._first_missed = len(STEPS)
        if isinstance(task, TrainTask) and task.attempt == 1:
            generator = np.random.default_rng(derived_seed(self.seed, "dropout", self.name, task.round))
            self._first_missed = int(generator.integers(len(STEPS)))
        if self._first_missed == 0:
            raise LearnerGoneError(f"{self.name} drops out before it trains (simulation.faults)")
