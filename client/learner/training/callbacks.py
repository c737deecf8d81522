"""Callbacks of the trainer: the log of each step, and what may end a round early."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers import TrainerCallback


class StepLog(TrainerCallback):
    """A record of what TRL logs at each step, passed on to `on_step`."""

    def __init__(self) -> None:
        self.lines: list[dict[str, float]] = []
        self.on_step: Callable[[int, Mapping[str, float]], None] = lambda step, figures: None

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Keep the numbers of one optimizer step."""
        # `grad_norm` marks the log of a step; the metrics of generation are missing where completions are reused.
        if logs and "grad_norm" in logs:
            self.lines.append({k: float(v) for k, v in logs.items() if isinstance(v, (int, float))})
            self.on_step(state.global_step, self.lines[-1])


class TimeBudget(TrainerCallback):
    """A time limit for a round: no step starts that would exceed it, judged by the longest step so far."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.may_stop: Callable[[int], bool] = lambda step: True
        """Whether a round may end after this many steps."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock of a round."""
        self._start = self._last = time.perf_counter()
        self._longest = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Measure a step, and stop training if the next one might not fit."""
        end = time.perf_counter()
        self._longest, self._last = max(self._longest, end - self._last), end
        if self._seconds and end - self._start + self._longest > self._seconds and self.may_stop(state.global_step):
            control.should_training_stop = True


class SignalBudget(TrainerCallback):
    """Adaptive local work: no step starts where the last groups had hardly any signal."""

    def __init__(self, least: float) -> None:
        """Set the least share of groups with signal; 0 never ends a round."""
        self._least = least
        self.window = 1
        """Groups that are looked at: the last ones, whole blocks of them."""
        self.signals: Callable[[], Sequence[float]] = list
        """Signal of each group of the round so far, in order."""
        self.may_stop: Callable[[int], bool] = lambda step: True
        """Whether a round may end after this many steps."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop training if too few of the last groups had rewards that differ."""
        last = self.signals()[-self.window :]
        enough = len(last) < self.window or sum(signal > 0 for signal in last) >= self._least * self.window
        if not enough and self.may_stop(state.global_step):
            control.should_training_stop = True
