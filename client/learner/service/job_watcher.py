"""What an organisation's learner says of its work while it works: to whoever waits for the job, and in its own log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from ....common.analysis.reward_hacking import RewardHackingMonitor
from ....common.messages.messages import EvaluateTask, Tally
from ....common.settings.run_config import RunConfig
from ..training.watcher import Watcher
from .jobs import Job
from .tracking import OrganisationTracking

LOGGER = logging.getLogger("fedgrpo.learner")


class JobWatcher(Watcher):
    """Tells the job under way how far it is, and log and trackers what it earns and what looks like reward hacking.

    What it has seen lasts as long as the learner's process: after a restart the tripwires begin anew.
    """

    def __init__(self, job: Callable[[], Job | None], config: RunConfig, tracking: OrganisationTracking) -> None:
        self._job, self._steps, self._tracking = job, config.train.steps_per_round, tracking
        self._tripwires = RewardHackingMonitor()

    def step(self, number: int, figures: Mapping[str, float]) -> None:
        """A step is done. Ends the round if nobody waits for it."""
        LOGGER.info("step %d of %d: reward %.3f", number, self._steps, figures.get("reward", 0.0))
        if job := self._job():  # a rehearsal has none, and is tracked nowhere
            self._tracking.step(job.frame.get("federation", str), figures)
        self._tell(number, self._steps)

    def batch(self, number: int, batches: int) -> None:
        """A batch is answered. Ends the evaluation if nobody waits for it."""
        self._tell(number, batches)

    def answers(self, task: EvaluateTask, problems: Any, base: Any, current: Any) -> None:
        """Held-out problems were answered."""
        right = sum(answer.strict for answer in current)
        LOGGER.info("round %d: %d of %d held-out answers right", task.round, right, len(current))
        if task.temperature > 0:
            self._tripwires.evaluated(task.round, Tally(problems=len(current), correct=right))
            self._warn()

    def trained(self, number: int, metrics: Mapping[str, float]) -> None:
        """A round of local training is done."""
        self._tripwires.trained("", number, metrics)
        self._warn()

    def _warn(self) -> None:
        for tripped in self._tripwires.new_warnings():
            LOGGER.warning("%s", tripped)

    def _tell(self, number: int, of: int) -> None:
        job = self._job()
        if job is not None:
            job.progress(number, of)
