"""Local GRPO, one client after another.

One trainer lives as long as its process and serves every client and round in it: adapter, prompts, rewards, seed and
schedule are set before each round.
"""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from datasets import Dataset
from transformers import set_seed

from ....common.adapter.adapter import Adapter
from ....common.adapter.schema import AdapterSchema, Vector
from ....common.errors import ConfigError
from ....common.settings.run_config import RunConfig
from ..models.adapted_model import REFERENCE, AdaptedModel, lora_config
from ..models.base_model import Base
from ..models.unsloth_backend import adapt_with_unsloth
from ..privacy.accountant import require_accountant
from ..rewards import Reward
from ..rewards.own_files import printing_to_stderr
from ..samplers.make import make_sampler
from ..tools import ToolBox
from .callbacks import SignalBudget, StepLog, TimeBudget
from .grpo_trainer import FederatedTrainer
from .kept_moments import second_moment
from .kept_state import RoundState
from .private_trainer import Batch, PrivateTrainer
from .trl_config import tool_arguments, trl_config

SIGNAL_WINDOW = 2
"""Steps whose groups say whether the signal has run out; a single step may have few groups."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalRound:
    """The work of one client in one round."""

    adapter: Adapter
    trains: tuple[str, ...]
    """Factors that train in this round."""
    rows: list[dict[str, Any]]
    """Prompts in the order in which they are used: `prompts_per_round` of them; not used if training is private."""
    batches: list[Batch] = field(default_factory=list)
    """The units of each step, if training is private."""
    expected_units: float = 0.0
    """Units that such a step has on average."""
    rewards: Sequence[Reward]
    seed: int
    first_step: int
    """Steps of the federation's schedule before this round."""
    state: RoundState = field(default_factory=RoundState)
    """What the client kept from its last round that counted."""
    block: int = 1
    """Prompts that are always trained on together: a round that runs out of time ends with a whole block."""
    on_step: Callable[[int, Mapping[str, float]], None] = field(default=lambda step, figures: None)
    """Called after each step with its number and what TRL logged."""


class LocalTrainer:
    """One trainer on one loaded base model, for any number of clients in turn."""

    def __init__(
        self,
        base: Base,
        schema: AdapterSchema,
        config: RunConfig,
        row: dict[str, Any],
        box: ToolBox,
    ) -> None:
        """Adapt a base model and create its trainer.

        Args:
            row: an example prompt, which TRL needs to start; rounds bring their own.

        Raises:
            ConfigError: there are tools, and the model's chat template does not support them, or training is private.
        """
        if config.dp.on:
            require_accountant()
            if box:
                raise ConfigError(
                    "There are tools, and dp.noise-multiplier is above 0: what a tool keeps from one completion to the "
                    "next ties units together, and epsilon does not cover it. Train without tools, or without noise."
                )
        if config.train.replay and box:
            raise ConfigError(
                f"There are tools, and train.replay is {config.train.replay}: a replayed completion would need what "
                "its tools said at the time. Train without tools, or with train.replay = 0."
            )
        self.config = config
        self.log, self.budget = StepLog(), TimeBudget(config.train.seconds_per_round)
        self.signal_budget = SignalBudget(config.train.min_signal)
        self.trainer = self._trl_trainer(base, schema, row, box)
        self.adapted = AdaptedModel(self.trainer.model, schema)  # pyright: ignore[reportArgumentType]
        self.adapted.drop_reference()
        self.sampler = make_sampler(config, base, self.adapted)
        self.trainer.connect(self.adapted, config, self.sampler, tool_turns=box.turns)
        if config.grpo.kl_reference == "global":
            self.adapted.add_reference()
        self.adapted.freeze()
        gc.collect()
        gc.freeze()  # each train() starts with a collection, which now skips the model and the libraries

    def _trl_trainer(self, base: Base, schema: AdapterSchema, row: dict[str, Any], box: ToolBox) -> FederatedTrainer:
        """Return TRL's trainer, whose model is the base model with an adapter."""
        arguments = trl_config(self.config, base.model.device, dtype=base.dtype)
        model, peft_config = base.model, lora_config(schema)
        if base.loader == "unsloth":
            model, peft_config = adapt_with_unsloth(model, schema, checkpointing=arguments.gradient_checkpointing), None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return (PrivateTrainer if self.config.dp.on else FederatedTrainer)(
                model=model,
                reward_funcs=[lambda completions, **_: [0.0] * len(completions)],
                args=arguments,
                train_dataset=Dataset.from_list([row]),
                processing_class=base.tokenizer,
                peft_config=peft_config,
                callbacks=[self.log, self.budget, self.signal_budget],
                **tool_arguments(box, base),
            )

    def train(self, work: LocalRound) -> tuple[Vector, int, dict[str, float]]:
        """Train one round, and return the delta, the number of steps, and TRL's metrics averaged over them.

        Raises:
            RewardError: a reward function failed; the model remains usable.
        """
        self._prepare(work)
        start = time.perf_counter()
        with printing_to_stderr():  # the organisation's tools may print
            self.trainer.train()
        self.trainer.round_stats.total_s = time.perf_counter() - start
        steps, planned = self.trainer.state.global_step, self.config.train.steps_per_round
        if steps != planned and not (self.config.train.may_end_early and 1 <= steps < planned):
            raise RuntimeError(f"TRL took {steps} steps, not the {planned} of the round")
        delta = self.adapted.read().minus(work.adapter)
        if not self._learned(work):
            delta = np.zeros_like(delta)  # without any advantage the gradient is float noise, which Adam scales up
        return delta, steps, self._metrics(work.rewards)

    def state_after(self, work: LocalRound) -> RoundState:
        """Return what the round just trained leaves; where nothing was learned, Adam's moment is the one before it."""
        before, optimizer = work.state.moment, cast(Any, self.trainer.optimizer)
        if before is None or not self._learned(work):
            return work.state
        optimizer = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
        moment = second_moment(optimizer, self.adapted.trained_parameters(), before, self.adapted.schema)
        return RoundState(moment, work.state.memory)

    def _learned(self, work: LocalRound) -> bool:
        """Return whether anything in the round had a gradient. In private training that is private, and always True."""
        replayed = work.state.memory.replayed if work.state.memory else 0
        signal = self.trainer.round_stats.effective_groups > 0 or replayed > 0
        return signal or self.config.grpo.beta != 0 or self.config.dp.on

    @property
    def signals(self) -> list[float]:
        """Return the signal of each prompt of the last round, in the order of training (`differing_pairs`)."""
        return self.trainer.round_stats.signals

    def _prepare(self, work: LocalRound) -> None:
        self.adapted.load(work.adapter)
        if REFERENCE in self.adapted.model.peft_config:
            self.adapted.load(work.adapter, REFERENCE)
        self.adapted.trains = work.trains
        self.adapted.freeze()
        self.trainer.begin_round(work.rows, work.rewards, seed=work.seed, first_step=work.first_step)
        if isinstance(self.trainer, PrivateTrainer):
            self.trainer.batches, self.trainer.expected_units = work.batches, work.expected_units
        self.trainer.moment, self.trainer.memory = work.state.moment, work.state.memory
        self.log.lines, self.log.on_step = [], work.on_step
        self.budget.may_stop = lambda step: self.config.prompts_in(step) % work.block == 0
        self.signal_budget.may_stop, self.signal_budget.signals = self.budget.may_stop, lambda: self.signals
        # Whole blocks: that a round ended may depend on nothing less (docs/decisions/016).
        self.signal_budget.window = -(-SIGNAL_WINDOW * self.config.grpo.prompts_per_step // work.block) * work.block
        set_seed(work.seed)

    def _metrics(self, rewards: Sequence[Reward]) -> dict[str, float]:
        lines, round_stats = self.log.lines, self.trainer.round_stats

        def mean(name: str) -> float:
            """Return the mean over the steps that logged it; 0 without any, as for a reward that was always None."""
            values = [line[name] for line in lines if name in line]
            return sum(values) / len(values) if values else 0.0

        metrics = {
            "reward/mean": mean("reward"),
            "reward/std": mean("reward_std"),
            "reward/group-std": round_stats.group_std,
            **round_stats.signal(),
            "policy/kl": mean("kl"),
            "policy/entropy": mean("entropy"),
            "policy/grad-norm": mean("grad_norm"),
            "policy/sampler-gap": round_stats.sampler_gap,
            "completion/mean-length": mean("completions/mean_length"),
            "completion/truncated-share": mean("completions/clipped_ratio"),
            **round_stats.completion_stats.shares(),
            "tokens/total": max(line.get("num_tokens", 0.0) for line in lines),
            "tokens/sampled": float(round_stats.sampled_tokens),
            "seconds/generate": round_stats.generate_s,
            "seconds/reward": round_stats.reward_s,
            "seconds/update": max(0.0, round_stats.total_s - round_stats.generate_s - round_stats.reward_s),
            "seconds/total": round_stats.total_s,
        }
        for reward in rewards:
            for statistic in ("mean", "std"):
                metrics[f"reward/{reward.name}/{statistic}"] = mean(f"rewards/{reward.name}/{statistic}")
        return metrics
