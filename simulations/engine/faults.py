"""Simulated faulty and malicious clients: without signal, slow, or poisoning. Never part of a real client."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...client.learner import Learner
from ...client.learner.rewards import Reward
from ...common.errors import ConfigError
from ...common.messages.messages import Capabilities, EvaluateTask, Evaluation, Tally, TrainTask, Update

SATURATED_BUT_ONE_IN = 25
SLOWNESS = 4.0
SCALE = 100.0
POISONERS = ("sign-flip", "scale", "inverted-reward")


@dataclass(frozen=True, slots=True)
class FaultyLearner:
    """A `Learner` with a fault."""

    inner: Learner
    fault: str

    def capabilities(self) -> Capabilities:
        """Return the capabilities, as if there were no fault."""
        return self.inner.capabilities()

    def train(self, task: TrainTask) -> Update:
        """Train a round, and apply the fault."""
        start = time.monotonic()
        update = self.inner.train(task)
        match self.fault:
            case "straggler":
                time.sleep((SLOWNESS - 1) * (time.monotonic() - start))
                return update
            case "sign-flip":
                return replace(update, delta=-update.delta)
            case "scale":
                return replace(update, delta=update.delta * np.float32(SCALE))
            case "saturated" | "inverted-reward" | "dropout":  # not faults of the update
                return update
            case other:
                raise ConfigError(f"There is no fault {other} (simulation.faults).")

    def evaluate(self, task: EvaluateTask) -> Evaluation:
        """Answer the held-out problems. A poisoner reports the opposite of the result to the reward gate."""
        evaluation = self.inner.evaluate(task)
        if self.fault not in POISONERS:
            return evaluation
        return Evaluation.of(_opposite(evaluation.total), evaluation.classes)


def spoiled(rewards: tuple[Reward, ...], fault: str) -> tuple[Reward, ...]:
    """Return the rewards of a client with a fault in its rewards; unchanged for other faults."""
    match fault:
        case "inverted-reward":
            return tuple(replace(reward, weight=-reward.weight) for reward in rewards)
        case "saturated":
            return tuple(replace(reward, function=_saturated(reward.function)) for reward in rewards)
        case "" | "straggler" | "dropout" | "sign-flip" | "scale":
            return rewards
        case other:
            raise ConfigError(f"There is no fault {other} (simulation.faults).")


def _saturated(function: Callable[..., Any]) -> Callable[..., Any]:
    def nearly_constant(prompts: Any, completions: Any, **columns: Any) -> list[float | None]:
        values = function(prompts=prompts, completions=completions, **columns)
        informative = [zlib.crc32(repr(p).encode()) % SATURATED_BUT_ONE_IN == 0 for p in prompts]
        return [value if counts else 1.0 for value, counts in zip(values, informative, strict=True)]

    return nearly_constant


def _opposite(tally: Tally) -> Tally:
    better = min(tally.worse, tally.correct)
    return replace(tally, better=better, worse=min(tally.better, tally.compared - better))
