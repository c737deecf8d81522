"""TRL's GRPOTrainer, fitted to a federation: the only file that knows it.

The private names of TRL that this needs are pinned by `tests/client/test_trl_contract.py`.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from tempfile import gettempdir
from typing import Any, cast

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback, get_scheduler
from trl import GRPOConfig, GRPOTrainer  # pyright: ignore[reportPrivateImportUsage]
from trl.chat_template_utils import add_response_schema, supports_tool_calling

from ....common.errors import ConfigError
from ....common.settings.run_config import RunConfig
from ..data.answers import final_answer, last_said, same_answer
from ..models.adapted_model import AdaptedModel
from ..models.base_model import Base
from ..samplers import Sampler, Sampling
from ..tools import ToolBox
from .batches import take_as_old_policy, with_signal
from .round_stats import RoundStats, effective_groups

NOT_FOR_TRL = ("max_prompt_length", "lr_scheduler_type", "warmup_ratio", "kl_reference", "off_policy_mask_threshold")
"""GRPO settings that are carried out here; all the others go to TRL as they are, under its own names."""


class FederatedTrainer(GRPOTrainer):
    """TRL's trainer with a schedule over the whole federation, frozen factors that stay frozen, and a clock."""

    adapted: AdaptedModel
    run_config: RunConfig
    first_step: int = 0
    round_stats: RoundStats
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
        of_its_own = self.run_config.backend.uses_vllm  # vLLM draws its own random numbers, from a seed of ours
        sampling = Sampling(
            max_tokens=grpo.max_completion_length,
            temperature=grpo.temperature,
            top_p=grpo.top_p,
            top_k=grpo.top_k,
            seed=int(torch.randint(1 << 31, ())) if of_its_own else None,
        )
        starts = range(0, len(prompt_ids), num_generations)
        alike = all(
            prompt_ids[i] == prompt_ids[start] for start in starts for i in range(start, start + num_generations)
        )
        size = num_generations if alike else 1  # an environment may begin each rollout of a group in its own way
        groups = self.sampler.sample(prompt_ids[::size], sampling, count=size)
        completions = [completion for group in groups for completion in group]
        logprobs = [completion.logprobs for completion in completions if completion.logprobs is not None]
        return [completion.tokens for completion in completions], logprobs or None

    def _generate(self, prompts: list[Any]) -> Any:
        start = time.perf_counter()
        try:
            return super()._generate(prompts)
        finally:
            self.round_stats.generate_s += time.perf_counter() - start

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Any:
        start = time.perf_counter()
        rows = [{**row, "truncated": self._cut_off(ids)} for row, ids in zip(inputs, completion_ids_list, strict=True)]
        try:
            rewards_per_func = super()._calculate_rewards(rows, prompts, completions, completion_ids_list)
        finally:
            self.round_stats.reward_s += time.perf_counter() - start
        texts = [last_said(completion) for completion in completions]
        right = [same_answer(final_answer(t), row["answer"]) for t, row in zip(texts, inputs, strict=True)]
        self.effective = effective_groups(rewards_per_func, self.reward_weights, self.run_config.grpo)
        self.round_stats.count(self.effective, right)
        self.round_stats.completion_stats.add(texts, right, completion_ids_list)
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
            self.round_stats.compare(self.last_logps, part)
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


class StepLog(TrainerCallback):
    """Keeps what TRL logs at each step, and tells whoever watches."""

    def __init__(self) -> None:
        self.lines: list[dict[str, float]] = []
        self.on_step: Callable[[int, Mapping[str, float]], None] = lambda step, figures: None

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """TRL has logged something."""
        # Once per step. What generation measured is missing where a batch of completions is used again.
        if logs and "grad_norm" in logs:
            self.lines.append({k: float(v) for k, v in logs.items() if isinstance(v, (int, float))})
            self.on_step(state.global_step, self.lines[-1])


class TimeBudget(TrainerCallback):
    """Ends a round before a step that would not fit in its seconds, judged by the longest step so far."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A round begins."""
        self._start = self._last = time.perf_counter()
        self._longest = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A step is done."""
        now = time.perf_counter()
        self._longest, self._last = max(self._longest, now - self._last), now
        if self._seconds and now - self._start + self._longest > self._seconds:
            control.should_training_stop = True


def tool_arguments(box: ToolBox, base: Base) -> dict[str, Any]:
    """What the trainer gets of a tool box."""
    if not box:
        return {}
    try:
        if not supports_tool_calling(base.tokenizer):
            raise ValueError("it does not render tool calls and their results.")
        if getattr(base.tokenizer, "response_template", None) is None:
            add_response_schema(base.tokenizer)
    except ValueError as error:
        raise ConfigError(
            f"There are tools, but the chat template of the model in {base.folder} is none they work with: {error} "
            "Those of Qwen2.5 and Qwen3 do; or give the tokenizer a response_template."
        ) from error
    return {"tools": list(box.tools), "environment_factory": box.environment}


def trl_config(config: RunConfig, device: torch.device, checkpoints: Path | None = None) -> GRPOConfig:
    """The settings as TRL's configuration, without anything that calls home.

    Args:
        checkpoints: where a run of all rounds in one writes TRL's own, after each round; None: one round, no file.
    """
    on_cpu = device.type == "cpu"
    return GRPOConfig(
        output_dir=str(checkpoints or Path(gettempdir()) / f"fedgrpo-trl-{os.getpid()}"),
        **{f.name: getattr(config.grpo, f.name) for f in fields(config.grpo) if f.name not in NOT_FOR_TRL},
        off_policy_mask_threshold=config.grpo.off_policy_mask_threshold or None,
        max_steps=config.total_steps if checkpoints else config.train.steps_per_round,
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
        save_strategy="steps" if checkpoints else "no",
        save_steps=config.train.steps_per_round,
        save_total_limit=2,
        disable_tqdm=True,
    )
