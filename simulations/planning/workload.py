"""How much there is to do: steps, completions, tokens; and how long it takes, where a speed is known."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from ...common.settings.run_config import RunConfig
from .traffic import evaluations


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Counts over the whole run. Tokens are the most there can be: completions as long as their limit."""

    clients: int
    """Of the cohort of a round."""
    rounds: int
    steps: int
    """Optimizer steps of one client."""
    completions_per_step: int
    completions: int
    """Sampled to train on, by all clients."""
    tokens: int
    """Of these completions, at most."""
    evaluated: int
    """Held-out completions."""
    evaluated_tokens: int
    """Of these, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How fast one process works."""

    tokens_per_second: float
    """Sampled, over all completions of a batch."""
    update_seconds: float | None = None
    """Of one optimizer step without its sampling; None is not known."""
    mean_length: float | None = None
    """Tokens of a completion; None is not known."""
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hours:
    """Time of the whole run on one process that serves all clients in turn; the server's own is left out."""

    sampling: float
    update: float | None
    evaluation: float
    source: str

    @property
    def total(self) -> float | None:
        """None where part of it is not known."""
        return None if self.update is None else self.sampling + self.update + self.evaluation


def work(config: RunConfig) -> Work:
    """What a run of these settings does."""
    grpo, clients = config.grpo, len(config.simulation.taking_part)
    cohort = min(clients, config.federation.clients_per_round or clients)
    per_step = grpo.per_device_train_batch_size * grpo.gradient_accumulation_steps
    per_round = math.ceil(config.train.steps_per_round / grpo.num_iterations) * per_step
    completions = cohort * config.federation.rounds * per_round
    evaluated = evaluations(config) * config.evaluation.problems
    return Work(
        clients=cohort,
        rounds=config.federation.rounds,
        steps=config.total_steps,
        completions_per_step=per_step,
        completions=completions,
        tokens=completions * grpo.max_completion_length,
        evaluated=evaluated,
        evaluated_tokens=evaluated * (config.evaluation.max_completion_length or grpo.max_completion_length),
    )


def hours(done: Work, speed: Speed, processes: int = 1) -> Hours:
    """How long that takes; `processes` share the clients evenly, each as fast as one alone."""
    length = speed.mean_length
    tokens = done.tokens if length is None else done.completions * length
    evaluated = done.evaluated_tokens if length is None else done.evaluated * length
    update = None
    if speed.update_seconds is not None:
        update = done.clients * done.steps * speed.update_seconds / 3600 / processes
    per_hour = speed.tokens_per_second * 3600 * processes
    return Hours(sampling=tokens / per_hour, update=update, evaluation=evaluated / per_hour, source=speed.source)


def as_json(found: Hours | None) -> dict[str, object] | None:
    """The hours as JSON; None where no speed is known."""
    return None if found is None else {**asdict(found), "total": found.total}
