"""Who watches a learner at work, on this machine only. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ....common.messages.messages import EvaluateTask

if TYPE_CHECKING:
    from ..data.problems import Problem
    from .evaluate import Answered


class Watcher:
    """Told what a learner does, on this machine only. This one looks away."""

    def step(self, number: int, figures: Mapping[str, float]) -> None:
        """A step of local training is done; what TRL logged, by its names. May raise, to end the round."""

    def trained(self, number: int, metrics: Mapping[str, float]) -> None:
        """A round of local training is done; all of its metrics, whatever leaves of them."""

    def batch(self, number: int, batches: int) -> None:
        """A batch of held-out problems is answered, of all that the evaluation answers. May raise, to end it."""

    def answers(
        self, task: EvaluateTask, problems: Sequence[Problem], base: Sequence[Answered], now: Sequence[Answered]
    ) -> None:
        """Held-out problems were answered, by the base model and with the task's adapter."""
