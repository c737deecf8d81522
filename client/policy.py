"""What the server may ask of this organisation: checked before anything is trained, and refused by the key's name.

The policy stands in the organisation's file and denies by default (SECURITY section 2). A refusal tells the server
which of its settings was refused; the organisation's limit stays here, in the log.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from ..common.adapter import AdapterSchema
from ..common.config import RunConfig
from ..common.errors import PolicyError
from ..common.protocol import TRAIN_METRICS, Evaluation, reward_metrics
from .organisation import Policy, Site

MAX_ATTEMPTS = 100
"""Of one round. A federation that needs more is broken, or is asking for something else than training."""


def check_run(site: Site, config: RunConfig) -> None:
    """Refuse a run whose settings this organisation does not allow.

    Raises:
        PolicyError: names the setting as the server calls it; the message, for the log, names the limit as well.
    """
    policy, own = site.policy, site.settings
    if policy.privacy != "none":
        _refuse("privacy", "is none: a delta leaves unmasked", "privacy", policy.privacy)
    if config.model.name != own.model.name:
        _refuse("model.name", f"is {config.model.name!r}", "the organisation's model.name", own.model.name)
    if not _covered(config.adapter.target_modules, policy.target_modules):
        _refuse(
            "adapter.target-modules", f"is {config.adapter.target_modules}", "target-modules", policy.target_modules
        )
    if config.federation.min_clients < policy.min_members:
        _refuse("federation.min-clients", f"is {config.federation.min_clients}", "min-members", policy.min_members)
    for key, value, limit_name, limit in _limits(config, policy):
        if value > limit:
            _refuse(key, f"is {value:g}", limit_name, limit)
    if config.prompts_per_round < policy.min_groups:
        groups = f"makes rounds of {config.prompts_per_round} groups"
        _refuse("train.steps-per-round", groups, "min-groups", policy.min_groups)
    odd = [name for name in config.evaluation.class_columns if name not in policy.class_columns]
    if odd and policy.evaluate:
        _refuse("evaluation.classes", f"asks for {odd[0]!r}", "class-columns", policy.class_columns)


def check_round(config: RunConfig, number: int, attempt: int) -> None:
    """Refuse a round that this run does not have.

    Raises:
        PolicyError: the round is not one of `federation.rounds`, or is tried without end.
    """
    if not 1 <= number <= config.federation.rounds:
        raise PolicyError("round", f"round {number} is none of the {config.federation.rounds} of this run")
    if not 1 <= attempt <= MAX_ATTEMPTS:
        raise PolicyError("attempt", f"attempt {attempt} is none of the {MAX_ATTEMPTS} a round may have")


def check_size(policy: Policy, schema: AdapterSchema) -> None:
    """Refuse an adapter whose delta has more bytes than may leave in a round."""
    if schema.size * 4 > policy.max_bytes_per_round:
        _refuse(
            "adapter.rank",
            f"makes a delta of {schema.size * 4} bytes",
            "max-bytes-per-round",
            policy.max_bytes_per_round,
        )


def metrics_that_leave(policy: Policy, reward_names: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the training metrics this organisation lets out, in the protocol's order."""
    names = TRAIN_METRICS + reward_metrics(reward_names)
    return tuple(name for name in names if any(fnmatchcase(name, pattern) for pattern in policy.metrics))


def check_groups(policy: Policy, groups: int) -> None:
    """Refuse to let the means of too few groups out.

    Raises:
        PolicyError: a time-budget round ended early.
    """
    if groups < policy.min_groups:
        _refuse("train.seconds-per-round", f"left time for {groups} groups", "min-groups", policy.min_groups)


def check_evaluation(policy: Policy) -> None:
    """Refuse an evaluation where no counts may leave."""
    if not policy.evaluate:
        _refuse("evaluation", "is asked for", "evaluate", "false")


def evaluation_that_leaves(policy: Policy, found: Evaluation) -> Evaluation:
    """The counts without the classes that hold too few problems.

    Raises:
        PolicyError: there are too few problems in all.
    """
    if found.total.problems < policy.min_class_problems:
        problems = f"would count {found.total.problems} held-out problems"
        _refuse("evaluation.problems", problems, "min-class-problems", policy.min_class_problems)
    large = {name: t for name, t in found.classes.items() if t.problems >= policy.min_class_problems}
    return Evaluation(total=found.total, classes=large)


def _limits(config: RunConfig, policy: Policy) -> Iterable[tuple[str, float, str, float]]:
    """(setting, its value, the policy's name, its limit) of everything that has an upper bound."""
    grpo, train, evaluation = config.grpo, config.train, config.evaluation
    per_step = grpo.per_device_train_batch_size * grpo.gradient_accumulation_steps
    yield "adapter.rank", config.adapter.rank, "max-rank", policy.max_rank
    yield "federation.rounds", config.federation.rounds, "max-rounds", policy.max_rounds
    yield "train.steps-per-round", train.steps_per_round, "max-steps-per-round", policy.max_steps_per_round
    yield "train.seconds-per-round", train.seconds_per_round, "max-seconds-per-round", policy.max_seconds_per_round
    yield "grpo.learning-rate", grpo.learning_rate, "max-learning-rate", policy.max_learning_rate
    yield "grpo.num-generations", grpo.num_generations, "max-generations", policy.max_generations
    yield "grpo.per-device-train-batch-size", per_step, "max-completions-per-step", policy.max_completions_per_step
    yield "evaluation.batch-size", evaluation.batch_size, "max-completions-per-step", policy.max_completions_per_step
    yield "grpo.max-completion-length", grpo.max_completion_length, "max-new-tokens", policy.max_new_tokens
    long = evaluation.max_completion_length
    yield "evaluation.max-completion-length", long, "max-new-tokens", policy.max_new_tokens


def _covered(wanted: str, allowed: tuple[str, ...]) -> bool:
    """Whether every layer name of `wanted` is allowed; `all-linear` must be allowed by that name."""
    if "all-linear" in allowed:
        return True
    return bool(allowed) and all(name.strip() in allowed for name in wanted.split(","))


def _refuse(key: str, what: str, limit_name: str, limit: object) -> None:
    shown = ", ".join(limit) if isinstance(limit, tuple) else limit
    raise PolicyError(key, f"The server's {key} {what}; this organisation's policy has {limit_name} = {shown}.")
