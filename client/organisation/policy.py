"""The organisation's policy: what the server may ask, checked before anything is trained; refusals name the key.

The policy stands in the organisation's file and denies by default (docs/security.md). A refusal tells the server
which of its settings was refused; the organisation's limit stays here, in the log.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from ...common.adapter.compression import most_bytes
from ...common.adapter.schema import AdapterSchema
from ...common.errors import PolicyError
from ...common.messages.messages import Evaluation, Tally
from ...common.messages.metric_names import PRIVATE_METRICS, TRAIN_METRICS, reward_metrics
from ...common.settings.run_config import RunConfig
from .settings import OrganisationFile, Policy

MAX_SEED = 1 << 32
MIN_TOP_K, MIN_TOP_P = 8, 0.5
"""Sampling from fewer tokens is nearly greedy at any temperature."""
MAX_ATTEMPTS = 100
"""Of one round. A federation that needs more is broken, or is asking for something else than training."""


def check_run(organisation: OrganisationFile, config: RunConfig) -> None:
    """Refuse a run whose settings this organisation does not allow.

    Raises:
        PolicyError: names the setting as the server calls it; the message, for the log, names the limit as well.
    """
    policy, own = organisation.policy, organisation.settings
    if policy.privacy == "secagg" and config.privacy.mode != "secagg":
        what = f"is {config.privacy.mode}: the update would leave unmasked"
        _refuse("privacy.mode", what, "privacy", policy.privacy)
    if config.model.name != own.model.name:
        _refuse("model.name", f"is {config.model.name!r}", "the organisation's model.name", own.model.name)
    if config.method_name not in policy.methods:
        _refuse("aggregation.method", f"is {config.method_name}", "methods", policy.methods)
    if not _covered(config.adapter.target_modules, policy.target_modules):
        _refuse(
            "adapter.target-modules", f"is {config.adapter.target_modules}", "target-modules", policy.target_modules
        )
    federation = config.federation
    fewest = federation.updates_needed(federation.clients_per_round or federation.min_clients)
    if fewest < policy.min_members:
        _refuse("federation.min-updates", f"lets a round of {fewest} updates count", "min-members", policy.min_members)
    for key, value, limit_name, limit in _limits(config, policy):
        if not value <= limit:
            _refuse(key, f"is {value:g}", limit_name, limit)
    for key, value, limit_name, limit in _floors(config, policy):
        if not value >= limit:
            _refuse(key, f"is {value:g}", limit_name, limit)
    _check_privacy(config, policy)
    _check_blocks(config, policy)
    if config.federation.seed >= MAX_SEED:
        raise PolicyError(
            "federation.seed", f"The server's federation.seed is {config.federation.seed}, not below 2^32."
        )
    odd = [name for name in config.evaluation.class_columns if name not in policy.class_columns]
    if odd and policy.evaluate:
        _refuse("evaluation.classes", f"asks for {odd[0]!r}", "class-columns", policy.class_columns)


def _check_privacy(config: RunConfig, policy: Policy) -> None:
    """Refuse a run without noise where there is a privacy budget, and one with noise where there is none."""
    if config.dp.on != (policy.max_epsilon > 0):
        _refuse("dp.noise-multiplier", f"is {config.dp.noise_multiplier:g}", "max-epsilon", policy.max_epsilon)
    if config.dp.on and config.dp.delta > policy.max_delta:
        _refuse("dp.delta", f"is {config.dp.delta:g}", "max-delta", policy.max_delta)


def _check_blocks(config: RunConfig, policy: Policy) -> None:
    """Refuse rounds that would not be whole blocks of min-groups prompts; one of fewer prompts never is.

    A private round has no blocks: its noise hides every unit.
    """
    if config.dp.on:
        return
    for key, what, prompts in (
        ("train.block-size", "makes blocks of", config.train.block_size),
        ("train.steps-per-round", "makes rounds of", config.prompts_per_round),
    ):
        if prompts % policy.min_groups:
            _refuse(key, f"{what} {prompts} prompts, not a multiple of min-groups", "min-groups", policy.min_groups)


def block_size(policy: Policy, config: RunConfig) -> int:
    """Return how many prompts are always trained on together: min-groups, or the multiple of it that the run chose.

    What leaves is then a function of whole blocks, however often and in whatever order they are asked for: means over
    different sets of prompts can be solved for the blocks, and never for a single prompt. A size that is not a multiple
    would cut other blocks out of the same prompts, and two such cuts can be solved for less than a block. Private
    training has no blocks.
    """
    return 1 if config.dp.on else config.train.block_size or policy.min_groups


def check_round(config: RunConfig, number: int, attempt: int) -> None:
    """Refuse a round that this run does not have.

    Raises:
        PolicyError: the round is not one of `federation.rounds`, or is tried without end.
    """
    if not 1 <= number <= config.federation.rounds:
        raise PolicyError("round", f"round {number} is none of the {config.federation.rounds} of this run")
    if not 1 <= attempt <= MAX_ATTEMPTS:
        raise PolicyError("attempt", f"attempt {attempt} is none of the {MAX_ATTEMPTS} a round may have")


def check_size(policy: Policy, config: RunConfig, schema: AdapterSchema) -> None:
    """Refuse an adapter whose delta, packed, may have more bytes than may leave in a round."""
    trains = config.method.trains
    codec, share = config.compression.up, config.compression.top_share
    most = max(most_bytes(schema.size_of(factors), codec, share) for factors in trains)
    if most > policy.max_bytes_per_round:
        _refuse(
            "adapter.rank",
            f"with compression.up = {codec} makes a delta of {most} bytes",
            "max-bytes-per-round",
            policy.max_bytes_per_round,
        )


def metrics_that_leave(policy: Policy, reward_names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the training metrics that may leave, in the protocol's order."""
    names = TRAIN_METRICS + PRIVATE_METRICS + reward_metrics(reward_names)
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


def check_prompts(policy: Policy, kept: int, left_out: int) -> None:
    """Refuse a run whose grpo.max-prompt-length leaves too few prompts, or leaves too many out.

    A server that could choose the length freely would choose single prompts, and count the others by their lengths.
    """
    if kept < policy.min_groups:
        what = f"leaves {kept} of {kept + left_out} prompts"
        _refuse("grpo.max-prompt-length", what, "min-groups", policy.min_groups)
    share = left_out / (kept + left_out)
    if not share <= policy.max_left_out_share:
        what = f"leaves {share:.0%} of the prompts out"
        _refuse("grpo.max-prompt-length", what, "max-left-out-share", policy.max_left_out_share)


def held_out_that_counts(policy: Policy, problems: int) -> int:
    """Return the number of held-out problems that the client speaks for; 0 where no counts of them may leave."""
    return problems if policy.evaluate and problems >= policy.min_class_problems else 0


def evaluation_that_leaves(policy: Policy, found: Evaluation) -> Evaluation:
    """Return the counts without classes of too few problems, and without those that would reveal them.

    The total is known, so what a column leaves out is known too, as the rest: it must be nothing, or as many problems
    as a class needs.

    Raises:
        PolicyError: there are too few problems in all.
    """
    least = policy.min_class_problems
    if found.total.problems < least:
        problems = f"would count {found.total.problems} held-out problems"
        _refuse("evaluation.problems", problems, "min-class-problems", least)
    leaving: dict[str, Tally] = {}
    for column in sorted({name.partition("=")[0] for name in found.classes} & set(policy.class_columns)):
        mine = {name: t for name, t in found.classes.items() if name.partition("=")[0] == column}
        large = dict(sorted(mine.items(), key=lambda item: (-item[1].problems, item[0])))
        rest = found.total.problems - sum(tally.problems for tally in large.values())
        while large and (min(t.problems for t in large.values()) < least or 0 < rest < least):
            rest += large.popitem()[1].problems  # the smallest
        leaving |= large
    return Evaluation.of(found.total, dict(sorted(leaving.items())))


def _limits(config: RunConfig, policy: Policy) -> Iterable[tuple[str, float, str, float]]:
    """Yield (setting, its value, the policy's name, its limit) of everything with an upper bound."""
    grpo, train, evaluation = config.grpo, config.train, config.evaluation
    per_step = grpo.per_device_train_batch_size * grpo.gradient_accumulation_steps
    yield "adapter.rank", config.adapter.rank, "max-rank", policy.max_rank
    yield "adapter.alpha", config.adapter.alpha, "max-alpha", policy.max_alpha
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


def _floors(config: RunConfig, policy: Policy) -> Iterable[tuple[str, float, str, float]]:
    """Yield (setting, its value, the policy's name, its limit) of everything with a lower bound.

    Without noise, and without a change of the policy, the same question has the same answer.
    """
    grpo = config.grpo
    yield "grpo.learning-rate", grpo.learning_rate, "min-learning-rate", policy.min_learning_rate
    yield "grpo.temperature", grpo.temperature, "min-temperature", policy.min_temperature
    if policy.min_temperature > 0:
        yield "grpo.top-k", grpo.top_k or MIN_TOP_K, "min-temperature, which means a top-k of", MIN_TOP_K
        yield "grpo.top-p", grpo.top_p, "min-temperature, which means a top-p of", MIN_TOP_P


def _covered(wanted: str, allowed: tuple[str, ...]) -> bool:
    """Return whether every layer name of `wanted` is allowed; `all-linear` must be allowed by that name."""
    if "all-linear" in allowed:
        return True
    return bool(allowed) and all(name.strip() in allowed for name in wanted.split(","))


def _refuse(key: str, what: str, limit_name: str, limit: object) -> None:
    shown = ", ".join(limit) if isinstance(limit, tuple) else limit
    raise PolicyError(key, f"The server's {key} {what}; this organisation's policy has {limit_name} = {shown}.")
