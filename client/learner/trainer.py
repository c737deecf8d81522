"""Local GRPO: the only file that knows TRL.

One `GRPOTrainer` lives as long as its process and serves every client and round in it: its adapter, shard, rewards,
seed and schedule are set before each round. The private names of TRL that this needs are pinned by
`tests/test_trl_contract.py`.
"""

from __future__ import annotations

import gc
import math
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from tempfile import gettempdir
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset
from torch.optim.lr_scheduler import LambdaLR
from transformers import PrinterCallback, ProgressCallback, TrainerCallback, get_scheduler, set_seed
from trl import GRPOConfig, GRPOTrainer  # pyright: ignore[reportPrivateImportUsage]

from ...common.adapter import Adapter
from ...common.config import RunConfig
from ...common.schema import AdapterSchema, Vector
from .answers import final_answer, same_answer
from .batches import take_as_old_policy, with_signal
from .meter import Meter, effective_groups
from .model import REFERENCE, AdaptedModel, Base, lora_config
from .rewards import Reward
from .samplers import Sampler, Sampling
from .samplers.make import make_sampler

NOT_FOR_TRL = ("max_prompt_length", "lr_scheduler_type", "warmup_ratio", "kl_reference", "off_policy_mask_threshold")
"""GRPO settings that are carried out here; all the others go to TRL as they are, under its own names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalRound:
    """What one client does in one round."""

    adapter: Adapter
    trains: tuple[str, ...]
    """Factors that train in this round."""
    rows: list[dict[str, Any]]
    """Prompts in the order in which they are used: `prompts_per_round` of them."""
    rewards: Sequence[Reward]
    seed: int
    first_step: int
    """Steps of the federation's schedule before this round."""
    on_step: Callable[[int, Mapping[str, float]], None] = field(default=lambda step, figures: None)
    """Told after each step: its number and what TRL logged."""


class _FederatedTrainer(GRPOTrainer):
    """TRL's trainer with a schedule over the whole federation, frozen factors that stay frozen, and a clock."""

    adapted: AdaptedModel
    run_config: RunConfig
    first_step: int = 0
    meter: Meter
    sampler: Sampler
    last_logps: torch.Tensor
    """Log-probabilities of the last pass's tokens, shape (B, T)."""
    effective: torch.Tensor
    """Which groups of the last batch of completions have an advantage, shape (B,)."""
    start: Sequence[tuple[torch.nn.Parameter, torch.Tensor]] = ()
    """Trained factors, and what they were when the round began; only for train.prox."""

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LambdaLR:
        """The part of the federation's schedule that belongs to this round."""
        total, settings = self.run_config.total_steps, self.run_config.grpo
        warmup = math.ceil(settings.warmup_ratio * total)
        chosen = cast(torch.optim.Optimizer, optimizer or self.optimizer)
        whole = cast(LambdaLR, get_scheduler(settings.lr_scheduler_type, chosen, warmup, total))
        start, rules = self.first_step, whole.lr_lambdas
        scheduler = LambdaLR(chosen, [lambda step, rule=rule: rule(start + step) for rule in rules])
        self.lr_scheduler = scheduler
        return scheduler

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], images: Any, multimodal_fields: Any, num_generations: int, **_: Any
    ) -> tuple[list[list[int]], list[list[float]] | None]:
        """Completions from our sampler, which is given each prompt once; TRL repeats it for each completion."""
        grpo = self.run_config.grpo
        sampling = Sampling(
            max_tokens=grpo.max_completion_length, temperature=grpo.temperature, top_p=grpo.top_p, top_k=grpo.top_k
        )
        groups = self.sampler.sample(prompt_ids[::num_generations], sampling, count=num_generations)
        completions = [completion for group in groups for completion in group]
        logprobs = [completion.logprobs for completion in completions if completion.logprobs is not None]
        return [completion.tokens for completion in completions], logprobs or None

    def _generate(self, prompts: list[Any]) -> Any:
        start = time.perf_counter()
        try:
            return super()._generate(prompts)
        finally:
            self.meter.generate_s += time.perf_counter() - start

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Any:
        start = time.perf_counter()
        rows = [{**row, "truncated": self._cut_off(ids)} for row, ids in zip(inputs, completion_ids_list, strict=True)]
        try:
            rewards_per_func = super()._calculate_rewards(rows, prompts, completions, completion_ids_list)
        finally:
            self.meter.reward_s += time.perf_counter() - start
        texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
        right = [same_answer(final_answer(t), row["answer"]) for t, row in zip(texts, inputs, strict=True)]
        self.effective = effective_groups(rewards_per_func, self.reward_weights, self.run_config.grpo)
        self.meter.count(self.effective, right)
        return rewards_per_func

    def _cut_off(self, ids: Sequence[int]) -> bool:
        """Whether a completion used all its tokens and none of them ended it: rewards get that as `truncated`."""
        ends = cast(Any, self.adapted.model.generation_config).eos_token_id
        known = {cast(Any, self.processing_class).eos_token_id, *(ends if isinstance(ends, list) else [ends])}
        return len(ids) >= self.run_config.grpo.max_completion_length and ids[-1] not in known

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """TRL's loss, and FedProx's: mu / 2 ||w - w_global||^2 over the trained factors (arXiv:1812.06127, eq. 2)."""
        loss = self._policy_loss(model, inputs)
        mu = self.run_config.train.prox
        if mu and model.training:
            distance = sum(((p - start) ** 2).sum() for p, start in self.start)
            loss = loss + mu / 2 * distance / self.args.gradient_accumulation_steps
        return loss

    def _policy_loss(self, model: Any, inputs: Any) -> torch.Tensor:
        """TRL's loss of the completions that have a gradient, as a share of the loss of all."""
        part, share = with_signal(inputs, self.run_config.grpo)
        if part is None:
            return torch.stack([0 * p.sum() for p in model.parameters() if p.requires_grad]).sum()
        loss = share * super().compute_loss(model, part)
        if "sampling_per_token_logps" in part:
            self.meter.compare(self.last_logps, part)
        return loss

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        found = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        self.last_logps = found[0].detach()
        return found

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        scored = super()._generate_and_score_completions(inputs)
        self.adapted.freeze()  # the reference pass switches adapters, which thaws every factor
        size = self.run_config.grpo.num_generations
        scored["advantages"] *= self.effective.repeat_interleave(size)  # float noise is no advantage
        if self.run_config.backend.sampler_correction == "ratio":
            take_as_old_policy(scored)
        return scored


class _Log(TrainerCallback):
    """Keeps what TRL logs at each step, and tells whoever watches."""

    def __init__(self) -> None:
        self.lines: list[dict[str, float]] = []
        self.on_step: Callable[[int, Mapping[str, float]], None] = lambda step, figures: None

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        # Once per step. What generation measured is missing where a batch of completions is used again.
        if logs and "grad_norm" in logs:
            self.lines.append({k: float(v) for k, v in logs.items() if isinstance(v, (int, float))})
            self.on_step(state.global_step, self.lines[-1])


class _Budget(TrainerCallback):
    """Ends a round before a step that would not fit in its seconds, judged by the longest step so far."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._start = self._last = time.perf_counter()
        self._longest = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        now = time.perf_counter()
        self._longest, self._last = max(self._longest, now - self._last), now
        if self._seconds and now - self._start + self._longest > self._seconds:
            control.should_training_stop = True


class LocalTrainer:
    """One resident trainer on one resident base model, for any number of clients in turn."""

    def __init__(
        self,
        base: Base,
        schema: AdapterSchema,
        config: RunConfig,
        row: dict[str, Any],
    ) -> None:
        self.config = config
        self.log = _Log()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.trainer = _FederatedTrainer(
                model=base.model,
                reward_funcs=[lambda completions, **_: [0.0] * len(completions)],
                args=trl_config(config, base.model.device),
                train_dataset=Dataset.from_list([row]),
                processing_class=base.tokenizer,
                peft_config=lora_config(schema),
                callbacks=[self.log, _Budget(config.train.seconds_per_round)],
            )
        self.trainer.remove_callback(PrinterCallback)
        self.trainer.remove_callback(ProgressCallback)
        self.adapted = AdaptedModel(self.trainer.model, schema)  # pyright: ignore[reportArgumentType]
        self.trainer.adapted, self.trainer.run_config = self.adapted, config
        self.sampler = self.trainer.sampler = make_sampler(config, base, self.adapted)
        if config.grpo.kl_reference == "global":
            self.adapted.add_reference()
        self.adapted.freeze()
        gc.collect()
        gc.freeze()  # each train() starts with a collection, which now passes over model and libraries

    def train(self, work: LocalRound) -> tuple[Vector, int, dict[str, float]]:
        """Train one round, and return the delta, the steps taken, and TRL's metrics averaged over them.

        Raises:
            RewardError: a reward function failed; the model is as usable as before.
        """
        self._prepare(work)
        start = time.perf_counter()
        self.trainer.train()
        self.trainer.meter.total_s = time.perf_counter() - start
        steps, wanted = self.trainer.state.global_step, self.config.train.steps_per_round
        if steps != wanted and not (self.config.train.seconds_per_round and 1 <= steps < wanted):
            raise RuntimeError(f"TRL took {steps} steps, not the {wanted} of the round")
        delta = self.adapted.read().minus(work.adapter)
        if self.trainer.meter.effective_groups == 0 and self.config.grpo.beta == 0:
            delta = np.zeros_like(delta)  # no group had an advantage: what moved is float noise, which Adam makes large
        return delta, steps, self._metrics(work.rewards)

    def _prepare(self, work: LocalRound) -> None:
        trainer = self.trainer
        self.adapted.load(work.adapter)
        if REFERENCE in self.adapted.model.peft_config:
            self.adapted.load(work.adapter, REFERENCE)
        self.adapted.trains = work.trains
        self.adapted.freeze()
        if self.config.train.prox:
            trained = [p for p in self.adapted.model.parameters() if p.requires_grad]
            trainer.start = [(p, p.detach().clone()) for p in trained]
        trainer._step, trainer._buffered_inputs = 0, None  # else the first step trains on last round's completions
        trainer._metrics["train"].clear()
        trainer.state.num_input_tokens_seen = 0
        trainer.reward_funcs = list(work.rewards)
        trainer.reward_func_names = [reward.name for reward in work.rewards]
        trainer.reward_processing_classes = [None] * len(work.rewards)  # pyright: ignore[reportAttributeAccessIssue]
        trainer.reward_weights = torch.tensor([reward.weight for reward in work.rewards])
        trainer.train_dataset = Dataset.from_list(work.rows)
        trainer.args.seed = work.seed
        trainer.optimizer = trainer.lr_scheduler = None  # pyright: ignore[reportAttributeAccessIssue]
        trainer.first_step, trainer.meter = work.first_step, Meter()
        self.log.lines, self.log.on_step = [], work.on_step
        set_seed(work.seed)

    def _metrics(self, rewards: Sequence[Reward]) -> dict[str, float]:
        lines, meter = self.log.lines, self.trainer.meter

        def mean(name: str) -> float:
            """Mean over the steps that have it; 0 where none has, as for a reward that was None throughout."""
            values = [line[name] for line in lines if name in line]
            return sum(values) / len(values) if values else 0.0

        metrics = {
            "reward/mean": mean("reward"),
            "reward/std": mean("reward_std"),
            **meter.signal(),
            "policy/kl": mean("kl"),
            "policy/entropy": mean("entropy"),
            "policy/grad-norm": mean("grad_norm"),
            "policy/sampler-gap": meter.sampler_gap,
            "completion/mean-length": mean("completions/mean_length"),
            "completion/truncated-share": mean("completions/clipped_ratio"),
            "tokens/total": max(line.get("num_tokens", 0.0) for line in lines),
            "seconds/generate": meter.generate_s,
            "seconds/reward": meter.reward_s,
            "seconds/update": max(0.0, meter.total_s - meter.generate_s - meter.reward_s),
            "seconds/total": meter.total_s,
        }
        for reward in rewards:
            for what in ("mean", "std"):
                metrics[f"reward/{reward.name}/{what}"] = mean(f"rewards/{reward.name}/{what}")
        return metrics


def trl_config(config: RunConfig, device: torch.device) -> GRPOConfig:
    """The settings as TRL's configuration, without anything that writes files or calls home."""
    on_cpu = device.type == "cpu"
    return GRPOConfig(
        output_dir=str(Path(gettempdir()) / f"fedgrpo-trl-{os.getpid()}"),
        **{f.name: getattr(config.grpo, f.name) for f in fields(config.grpo) if f.name not in NOT_FOR_TRL},
        off_policy_mask_threshold=config.grpo.off_policy_mask_threshold or None,
        max_steps=config.train.steps_per_round,
        lr_scheduler_type="constant",
        shuffle_dataset=False,
        seed=config.federation.seed,
        use_cpu=on_cpu,
        bf16=not on_cpu and config.model.dtype == "bfloat16",
        gradient_checkpointing={"on": True, "off": False, "auto": not on_cpu}[config.backend.gradient_checkpointing],
        dataloader_num_workers=0,
        dataloader_pin_memory=not on_cpu,
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
