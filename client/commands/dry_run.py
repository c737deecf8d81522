"""A dry run: the real messages of a run, made by the real learner, recorded and not sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...common.adapter.adapter import Adapter
from ...common.adapter.compression import rounded
from ...common.errors import PolicyError
from ...common.messages.messages import EvaluateTask, Failure, TrainTask
from ...common.settings.run_config import RunConfig
from ..learner import Learner
from ..learner.masking.summing import SummingLearner
from ..organisation.policy_settings import Policy
from ..organisation.settings import OrganisationFile
from ..relay.error_codes import code_of

Leaving = tuple[str, list[dict[str, object]]]
"""(what it answers, the fields that would leave)."""


def dry_run(organisation: OrganisationFile, learner: Learner, config: RunConfig) -> Iterator[Leaving]:
    """Join, train the first round, evaluate: yields what each would send. Everything passes the gate, unsent.

    Raises:
        ModuleNotFoundError: the messages are Flower's, and flwr is not installed here.
    """
    from ...common.messages import wire  # not on top: all else of `client check` runs in a learner without flwr
    from ..main import evaluated, joining, trained
    from ..relay.egress import EgressGate, fields_of

    gate = EgressGate(organisation, dry_run=True)
    start, sums = Adapter.initial(learner.capabilities().schema), _of_sums(learner, config)
    codec = config.compression.down
    array = wire.packed(rounded(start.vector, codec), codec)
    place: dict[str, Any] = {"federation": "rehearsal", "round": 1, "attempt": 1, "config_sha256": config.sha256}
    task = TrainTask(**place, **sums, adapter=start, position=0, nonce="0" * 16, schema_sha256=start.schema.sha256)
    members = sums.get("members", 0)
    question = EvaluateTask(**place, members=members, adapter=start, temperature=config.evaluation.temperature)
    for kind, answer in (
        ("query.join", lambda: joining(learner)),
        ("train", lambda: trained(learner, wire.record_of(task, array=array), config)),
        ("evaluate", lambda: evaluated(learner, wire.record_of(question, array=array), config)),
    ):
        try:
            content = answer()
        except PolicyError as error:
            content = wire.record_of(Failure(error=code_of(error)))
        gate.release(content, kind)
        yield kind, list(fields_of(content))


def rehearsing(organisation: OrganisationFile, config: RunConfig) -> Learner:
    """Return what makes the organisation's answers in a run, in this process."""
    from ..learner.service.job_handler import JobHandler

    return JobHandler(organisation).answering(config)


def _of_sums(learner: Learner, config: RunConfig) -> dict[str, Any]:
    """Return what a task says of the sum that its answer is part of."""
    if not isinstance(learner, SummingLearner):
        return {}
    members = len(learner.masker.manifest.members) if learner.masker else config.federation.min_clients
    metrics = () if config.privacy.noise_multiplier else learner.capabilities().metrics
    return {"members": members, "summed_metrics": metrics}


def allowed_run(organisation: OrganisationFile) -> RunConfig:
    """Return the settings of a run as large as the policy allows, for use without a scenario."""
    policy, usual = organisation.policy, RunConfig()
    step = min(usual.grpo.per_device_train_batch_size, policy.max_completions_per_step)
    size = max(1, min(usual.grpo.num_generations, policy.max_generations, step))
    steps = max(1, min(usual.train.steps_per_round, policy.max_steps_per_round))
    wanted = {
        "model.name": organisation.settings.model.name,
        "privacy.mode": policy.privacy,
        "adapter.rank": max(1, min(usual.adapter.rank, policy.max_rank)),
        "adapter.alpha": max(1, min(usual.adapter.alpha, policy.max_alpha)),
        "aggregation.method": usual.method_name
        if not policy.methods or usual.method_name in policy.methods
        else policy.methods[0],
        "adapter.target-modules": ",".join(policy.target_modules) or usual.adapter.target_modules,
        "federation.rounds": max(1, min(usual.federation.rounds, policy.max_rounds)),
        "federation.min-clients": max(usual.federation.min_clients, policy.min_members),
        "federation.min-updates": max(usual.federation.min_updates, policy.min_members),
        "train.steps-per-round": _whole_blocks(steps, max(1, step // size), policy),
        "grpo.learning-rate": min(usual.grpo.learning_rate, policy.max_learning_rate) or usual.grpo.learning_rate,
        "grpo.num-generations": size,
        "grpo.per-device-train-batch-size": max(size, step // size * size),
        "grpo.max-completion-length": max(1, min(usual.grpo.max_completion_length, policy.max_new_tokens)),
        "evaluation.batch-size": max(1, min(usual.evaluation.batch_size, policy.max_completions_per_step)),
        "aggregation.weights": "uniform" if "groups/*" not in policy.metrics else usual.aggregation.weights,
    }
    return usual.with_values(wanted)


def _whole_blocks(steps: int, prompts_per_step: int, policy: Policy) -> int:
    """Return the number of steps from `steps` on whose prompts are whole blocks of min-groups; `steps` if there is none
    that the policy allows."""
    allowed = range(steps, max(steps, policy.max_steps_per_round) + 1)
    return next((n for n in allowed if n * prompts_per_step % policy.min_groups == 0), steps)
