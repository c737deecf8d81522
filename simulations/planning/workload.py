"""The amount of work: steps, completions, tokens; and the time it takes at a known speed."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from ...common.settings.run_config import RunConfig
from .traffic import evaluations


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Counts over the whole run. Tokens are upper bounds: completions as long as their limit."""

    clients: int
    """Clients in the cohort of a round."""
    rounds: int
    steps: int
    """Optimizer steps of one client."""
    completions_per_step: int
    completions: int
    """Training completions sampled by all clients."""
    tokens: int
    """Tokens of the training completions, at most."""
    evaluated: int
    """Held-out completions."""
    evaluated_tokens: int
    """Tokens of the held-out completions, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """The speed of one process."""

    tokens_per_second: float
    """Sampled tokens, over all completions of a batch."""
    update_seconds: float | None = None
    """Seconds of one optimizer step without its sampling; None if unknown."""
    mean_length: float | None = None
    """Tokens per completion; None if unknown."""
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hours:
    """Time of the whole run, if each process serves its clients in turn; without the server's own time."""

    sampling: float
    update: float | None
    evaluation: float
    source: str

    @property
    def total(self) -> float | None:
        """Sum of the hours; None if a part is unknown."""
        return None if self.update is None else self.sampling + self.update + self.evaluation


def work(config: RunConfig) -> Work:
    """Count the work of a run with these settings."""
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


def hours(workload: Work, speed: Speed, processes: int = 1) -> Hours:
    """Return the hours that the work takes; `processes` share the clients evenly, each as fast as a single one."""
    length = speed.mean_length
    tokens = workload.tokens if length is None else workload.completions * length
    evaluated = workload.evaluated_tokens if length is None else workload.evaluated * length
    update = None
    if speed.update_seconds is not None:
        update = workload.clients * workload.steps * speed.update_seconds / 3600 / processes
    per_hour = speed.tokens_per_second * 3600 * processes
    return Hours(sampling=tokens / per_hour, update=update, evaluation=evaluated / per_hour, source=speed.source)


def as_json(estimate: Hours | None) -> dict[str, object] | None:
    """Return the hours for JSON; None if the speed is unknown."""
    return None if estimate is None else {**asdict(estimate), "total": estimate.total}
