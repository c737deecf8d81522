"""An observer of a learner, on this machine only. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ....common.messages.messages import EvaluateTask

if TYPE_CHECKING:
    from ..data.problems import Problem
    from .evaluate import Answered


class Watcher:
    """An observer of what a learner does, on this machine only. This base class ignores everything."""

    def step(self, number: int, figures: Mapping[str, float]) -> None:
        """Take note of a training step and TRL's logs by TRL's names. May raise, to end the round."""

    def trained(self, number: int, metrics: Mapping[str, float]) -> None:
        """Take note of a finished round with all its metrics, including those that the policy keeps back."""

    def batch(self, number: int, batches: int) -> None:
        """Take note of an answered batch of held-out problems, of all in the evaluation. May raise, to end it."""

    def answers(
        self, task: EvaluateTask, problems: Sequence[Problem], base: Sequence[Answered], current: Sequence[Answered]
    ) -> None:
        """Take note of the held-out answers, of the base model and with the task's adapter."""
