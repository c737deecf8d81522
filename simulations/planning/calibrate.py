"""A short calibration: the scenario's learner trains a step on its own data, and is timed. Loads torch."""

from __future__ import annotations

from tempfile import TemporaryDirectory

from ...common.adapter.adapter import Adapter
from ...common.messages.messages import TrainTask
from ...common.settings.run_config import RunConfig, Value
from ..engine.simulated_clients import simulated_learner
from .workload import Speed

MEASURED_STEPS = 2


def calibrate(config: RunConfig) -> Speed:
    """Load the model, run a warm-up round of two steps and a timed one, and return the speeds of sampling and update.

    The steps are those of the first client in round 1, with the scenario's rewards: the result holds for the completion
    lengths of the base model. Nothing is written to a run folder.

    Raises:
        ConfigError: the model or the data cannot be loaded.
    """
    number = config.simulation.taking_part[0]
    node: dict[str, Value] = {"partition-id": number, "num-partitions": config.simulation.clients}
    steps = MEASURED_STEPS * config.grpo.num_iterations
    whole_round = {"train.steps-per-round": steps, "train.seconds-per-round": 0.0, "train.min-signal": 0.0}
    with TemporaryDirectory() as folder:
        apart = {"output.dir": folder, "output.run": "calibration"}
        learner = simulated_learner(node, config.with_values({**whole_round, **apart}))
        schema = learner.capabilities().schema
        task = TrainTask(federation="plan", round=1, attempt=1, adapter=Adapter.initial(schema), position=0)
        learner.train(task)
        update = learner.train(task)
    metrics = update.metrics
    per_step = config.grpo.per_device_train_batch_size * config.grpo.gradient_accumulation_steps
    length = metrics["completion/mean-length"]
    tokens = length * per_step * MEASURED_STEPS
    return Speed(
        tokens_per_second=tokens / metrics["seconds/generate"],
        update_seconds=(metrics["seconds/total"] - metrics["seconds/generate"]) / update.num_steps,
        mean_length=length,
        source=f"{update.num_steps} steps measured here, of {per_step} completions of {length:.0f} tokens on average",
    )
