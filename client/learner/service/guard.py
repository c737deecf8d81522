"""A learner that does what the organisation's policy allows, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from ....common.errors import ProtocolError
from ....common.messages.messages import Capabilities, EvaluateTask, Evaluation, TrainTask, Update
from ....common.settings.run_config import RunConfig
from ...organisation import policy
from ...organisation.settings import OrganisationFile
from .. import Learner
from ..training.error_feedback import CompressingLearner

FEDERATION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MAX_POSITION = 1 << 53


class GuardedLearner:
    """Between the relay and the learner proper, in the learner's process: a `Learner`.

    Whoever reaches the socket gets what the policy lets out. Nothing is trained before every check has passed.
    """

    def __init__(self, make: Callable[[], Learner], organisation: OrganisationFile, config: RunConfig) -> None:
        """Make the learner proper, if the organisation allows this run.

        Raises:
            PolicyError: it does not; nothing was made.
        """
        policy.check_run(organisation, config)
        self._organisation, self._config = organisation, config
        folder = organisation.folder / "rests"
        self._learner = CompressingLearner(make(), config, folder, organisation.policy.max_delta_norm)
        can = self._learner.capabilities()
        policy.check_size(organisation.policy, config, can.schema)
        policy.check_prompts(organisation.policy, can.examples, can.prompts_too_long)

    def capabilities(self) -> Capabilities:
        """Who we are, as far as the policy lets it out."""
        can, rules = self._learner.capabilities(), self._organisation.policy
        metrics = policy.metrics_that_leave(rules, can.reward_names)
        named = {name.split("/")[1] for name in metrics if name.startswith("reward/") and name.count("/") > 1}
        can = replace(can, metrics=metrics, reward_names=tuple(n for n in can.reward_names if n in named))
        return can if rules.report_hardware else replace(can, device="unknown", memory_bytes=0, tokens_per_second=0.0)

    def train(self, task: TrainTask) -> Update:
        """Train a round, and let the delta out clipped and rounded, with the metrics that may leave."""
        _check_place(task.federation, task.round)
        if not 0 <= task.position <= MAX_POSITION:
            raise ProtocolError("header", f"position {task.position} is in no shard")
        if not 0 <= task.counted_round < task.round or not 0 <= task.counted_attempt <= policy.MAX_ATTEMPTS:
            raise ProtocolError("header", f"round {task.counted_round} cannot have counted before round {task.round}")
        policy.check_round(self._config, task.round, task.attempt)
        update = self._learner.train(task)
        policy.check_groups(self._organisation.policy, update.num_examples)
        leaving = self.capabilities().metrics
        return replace(update, metrics={name: update.metrics[name] for name in leaving})

    def evaluate(self, task: EvaluateTask) -> Evaluation:
        """Count answers, and let the counts out that may leave."""
        policy.check_evaluation(self._organisation.policy)
        _check_place(task.federation, task.round)
        policy.check_round(self._config, max(1, task.round), max(1, task.attempt))
        if task.temperature not in (0.0, self._config.evaluation.temperature):
            raise ProtocolError("header", f"a temperature of {task.temperature} is none of this run")
        return policy.evaluation_that_leaves(self._organisation.policy, self._learner.evaluate(task))


def _check_place(federation: str, number: int) -> None:
    if not FEDERATION.fullmatch(federation):
        raise ProtocolError("header", "the federation has no plain name")
    if number < 0:
        raise ProtocolError("header", f"there is no round {number}")
