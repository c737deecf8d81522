"""The progress of an organisation's learner: for the client that waits for the job, and in the learner's log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ....common.analysis.reward_hacking import RewardHackingMonitor
from ....common.foreign import safe_logger
from ....common.messages.messages import EvaluateTask, Tally
from ....common.settings.run_config import RunConfig
from ..training.watcher import Watcher
from .jobs import Job
from .tracking import OrganisationTracking

LOGGER = safe_logger("fedgrpo.learner")


class JobWatcher(Watcher):
    """A watcher that reports progress to the job, and rewards and signs of reward hacking to log and trackers.

    The history lasts as long as the learner's process: after a restart the warnings start from scratch.
    """

    def __init__(self, job: Callable[[], Job | None], config: RunConfig, tracking: OrganisationTracking) -> None:
        self._job, self._steps, self._tracking = job, config.train.steps_per_round, tracking
        self._monitor = RewardHackingMonitor()

    def step(self, number: int, figures: Mapping[str, float]) -> None:
        """Log a step. Ends the round if nothing waits for it any more."""
        LOGGER.info("step %d of %d: reward %.3f", number, self._steps, figures.get("reward", 0.0))
        if job := self._job():  # a dry run has no job, and is not tracked
            self._tracking.step(job.frame.get("federation", str), figures)
        self._report(number, self._steps)

    def batch(self, number: int, batches: int) -> None:
        """Report an answered batch. Ends the evaluation if nothing waits for it any more."""
        self._report(number, batches)

    def answers(self, task: EvaluateTask, problems: Any, base: Any, current: Any) -> None:
        """Log how many held-out answers are correct."""
        correct = sum(answer.strict for answer in current)
        LOGGER.info("round %d: %d of %d held-out answers correct", task.round, correct, len(current))
        if task.temperature > 0:
            self._monitor.evaluated(task.round, Tally(problems=len(current), correct=correct))
            self._warn()

    def trained(self, number: int, metrics: Mapping[str, float]) -> None:
        """Check the metrics of a finished round for signs of reward hacking."""
        self._monitor.trained("", number, metrics)
        self._warn()

    def _warn(self) -> None:
        for warning in self._monitor.new_warnings():
            LOGGER.warning("%s", warning)

    def _report(self, number: int, of: int) -> None:
        job = self._job()
        if job is not None:
            job.progress(number, of)
