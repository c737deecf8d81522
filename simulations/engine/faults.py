"""Simulated clients that are not as they should be: without signal, slow, or hostile. No part of a real client."""

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
    """A learner with a fault: a `Learner`."""

    inner: Learner
    fault: str

    def capabilities(self) -> Capabilities:
        """Who we are, as if nothing were wrong."""
        return self.inner.capabilities()

    def train(self, task: TrainTask) -> Update:
        """Train a round, and spoil it."""
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
            case "saturated" | "inverted-reward":  # faults of the rewards, not of the update
                return update
            case other:
                raise ConfigError(f"There is no fault {other} (simulation.faults).")

    def evaluate(self, task: EvaluateTask) -> Evaluation:
        """Answer the held-out problems. A poisoner tells the reward gate the opposite of what it found."""
        found = self.inner.evaluate(task)
        return replace(found, total=_opposite(found.total)) if self.fault in POISONERS else found


def spoiled(rewards: tuple[Reward, ...], fault: str) -> tuple[Reward, ...]:
    """The rewards of a client with a fault of its rewards; the same ones where it has another."""
    match fault:
        case "inverted-reward":
            return tuple(replace(reward, weight=-reward.weight) for reward in rewards)
        case "saturated":
            return tuple(replace(reward, function=_saturated(reward.function)) for reward in rewards)
        case "" | "straggler" | "sign-flip" | "scale":
            return rewards
        case other:
            raise ConfigError(f"There is no fault {other} (simulation.faults).")


def _saturated(function: Callable[..., Any]) -> Callable[..., Any]:
    def nearly_constant(prompts: Any, completions: Any, **columns: Any) -> list[float | None]:
        found = function(prompts=prompts, completions=completions, **columns)
        informative = [zlib.crc32(repr(p).encode()) % SATURATED_BUT_ONE_IN == 0 for p in prompts]
        return [value if counts else 1.0 for value, counts in zip(found, informative, strict=True)]

    return nearly_constant


def _opposite(tally: Tally) -> Tally:
    better = min(tally.worse, tally.correct)
    return replace(tally, better=better, worse=min(tally.better, tally.compared - better))
