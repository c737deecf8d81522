"""A learner that enforces the organisation's policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ....common.bounds import NAME
from ....common.errors import ProtocolError
from ....common.messages.messages import Capabilities, EvaluateTask, Evaluation, TrainTask, Update
from ....common.settings.run_config import RunConfig
from ...organisation import policy
from ...organisation.settings import OrganisationFile
from .. import Learner
from ..training.error_feedback import CompressingLearner, Residuals
from .ledger import Ledger
from .log_keeper import LogKeeper

MAX_POSITION = 1 << 53


class GuardedLearner:
    """A `Learner` between the relay and the actual learner, in the learner's process.

    Every caller on the socket gets only what the policy allows. Training starts only after every check has passed.
    """

    def __init__(
        self,
        make: Callable[[], Learner],
        organisation: OrganisationFile,
        config: RunConfig,
        ledger: Ledger,
        keeper: LogKeeper | None = None,
    ) -> None:
        """Create the actual learner, if the organisation allows this run.

        Args:
            keeper: checks tasks against the round log; None where no manifest is pinned.

        Raises:
            PolicyError: the policy does not allow it.
        """
        policy.check_run(organisation, config)
        self._organisation, self._config, self.ledger, self._keeper = organisation, config, ledger, keeper
        self._block = policy.block_size(organisation.policy, config)
        self.residuals = Residuals(organisation.folder / "rests")
        self._learner = CompressingLearner(make(), config, self.residuals, organisation.policy.max_delta_norm)
        capabilities = self._learner.capabilities()
        policy.check_size(organisation.policy, config, capabilities.schema)
        policy.check_prompts(organisation.policy, capabilities.examples, capabilities.prompts_too_long)

    def capabilities(self) -> Capabilities:
        """Return the capabilities that the policy allows to report."""
        capabilities, rules = self._learner.capabilities(), self._organisation.policy
        allowed = policy.metrics_that_leave(rules, capabilities.reward_names)
        metrics = tuple(name for name in allowed if name in capabilities.metrics)
        reported = {name.split("/")[1] for name in metrics if name.startswith("reward/") and name.count("/") > 1}
        capabilities = replace(
            capabilities,
            metrics=metrics,
            reward_names=tuple(n for n in capabilities.reward_names if n in reported),
            held_out=policy.held_out_that_counts(rules, capabilities.held_out),
        )
        return (
            capabilities
            if rules.report_hardware
            else replace(capabilities, device="unknown", memory_bytes=0, tokens_per_second=0.0)
        )

    def train(self, task: TrainTask) -> Update:
        """Train a round, and return the delta clipped and compressed, with the metrics that may leave."""
        _check_place(task.federation, task.round)
        if not 0 <= task.position <= MAX_POSITION:
            raise ProtocolError("header", f"position {task.position} is not in a shard")
        if task.position % self._block:
            raise ProtocolError("header", f"position {task.position} is inside a block of {self._block} prompts")
        if not 0 <= task.counted_round < task.round or not 0 <= task.counted_attempt <= policy.MAX_ATTEMPTS:
            raise ProtocolError("header", f"round {task.counted_round} cannot have counted before round {task.round}")
        policy.check_round(self._config, task.round, task.attempt)
        if self._keeper:
            self._keeper.check(task, self._config)
        self.ledger.begin_training(task, self._config)
        update = self._learner.train(task)
        policy.check_groups(self._organisation.policy, update.num_examples)
        self.ledger.used(update.num_examples)
        leaving = self.capabilities().metrics
        update = replace(update, metrics={name: update.metrics[name] for name in leaving})
        if self._keeper and self._config.privacy.mode == "none":  # a part of a sum is noted where it is made
            self._keeper.receipt(task, update, self._learner.capabilities().schema, self._config)
        return update

    def evaluate(self, task: EvaluateTask) -> Evaluation:
        """Count answers, and return the counts that may leave."""
        policy.check_evaluation(self._organisation.policy)
        _check_place(task.federation, task.round)
        policy.check_round(self._config, max(1, task.round), max(1, task.attempt))
        if task.temperature not in (0.0, self._config.evaluation.temperature):
            raise ProtocolError("header", f"temperature {task.temperature} does not belong to this run")
        self.ledger.begin_evaluation(task, self._config)
        return policy.evaluation_that_leaves(self._organisation.policy, self._learner.evaluate(task))


def _check_place(federation: str, number: int) -> None:
    if not NAME.fullmatch(federation):
        raise ProtocolError("header", "the federation's name has characters that are not allowed")
    if number < 0:
        raise ProtocolError("header", f"there is no round {number}")
