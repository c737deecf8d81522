"""TRL's GRPOTrainer adapted to a federation: with `trl_config`, the only file that knows it.

The private names of TRL that this file needs are pinned by `tests/client/test_trl_contract.py`.

Array shapes are the suffix of a name: N completions in a batch, in P groups (one per prompt) of G completions each;
T tokens of a completion, padded on the right; F reward functions.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from typing import Any, cast

import torch
from datasets import Dataset
from torch.optim.lr_scheduler import LambdaLR
from transformers import PrinterCallback, ProgressCallback, get_scheduler
from trl import GRPOConfig, GRPOTrainer  # pyright: ignore[reportPrivateImportUsage]

from ....common.settings.run_config import RunConfig
from ..data.answers import last_said
from ..data.judge import is_right
from ..models.adapted_model import AdaptedModel
from ..models.chat_template import opening, with_opening
from ..rewards import Reward
from ..samplers import Sampler, Sampling
from .batches import take_as_old_policy, with_signal
from .kept_moments import SecondMoment, resume
from .replay import Memory
from .round_stats import RoundStats, differing_pairs, effective_groups, group_spreads
from .shared_prompts import logprobs_by_prompt


class FederatedTrainer(GRPOTrainer):
    """TRL's trainer with a schedule over the whole federation, frozen factors that stay frozen, and timing by phase.

    One trainer serves every round of every client in its process: `connect` once, then `begin_round` before `train`.
    """

    adapted: AdaptedModel
    run_config: RunConfig
    first_step: int = 0
    round_stats: RoundStats
    sampler: Sampler
    logprobs_NT: torch.Tensor
    """Log-probabilities of the tokens of the last forward pass."""
    effective_P: torch.Tensor
    """Whether each group of the last batch of completions has an advantage, booleans."""
    start: Sequence[tuple[torch.nn.Parameter, torch.Tensor]] = ()
    """Trained factors with their values at the start of the round; only for train.prox."""
    moment: SecondMoment | None = None
    """Adam's second moment at the start of the round; None starts with an empty one."""
    memory: Memory | None = None
    """Groups to replay in the places of groups without signal; None replays none."""

    def connect(self, adapted: AdaptedModel, config: RunConfig, sampler: Sampler, *, tool_turns: int = 0) -> None:
        """Give the trainer what it trains, by which settings, and what samples its completions.

        Args:
            tool_turns: rounds of tool calls in one completion at most; 0 does not limit them.
        """
        self.adapted, self.run_config, self.sampler = adapted, config, sampler
        self.round_stats = RoundStats()
        self.max_tool_calling_iterations = tool_turns or sys.maxsize
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)

    def begin_round(self, rows: list[dict[str, Any]], rewards: Sequence[Reward], *, seed: int, first_step: int) -> None:
        """Reset what TRL keeps between two calls of `train`, and set the prompts and rewards of one client's round.

        Args:
            rows: prompts in the order in which they are used.
            first_step: steps of the federation's schedule before this round.
        """
        self._step, self._buffered_inputs = 0, None  # otherwise the first step reuses the last round's completions
        self._metrics["train"].clear()
        self.state.num_input_tokens_seen = 0
        self.reward_funcs = list(rewards)
        self.reward_func_names = [reward.name for reward in rewards]
        self.reward_processing_classes = [None] * len(rewards)  # pyright: ignore[reportAttributeAccessIssue]
        self.reward_weights = torch.tensor([reward.weight for reward in rewards])
        self.train_dataset = Dataset.from_list(rows)
        self.args.seed = seed
        self.optimizer = self.lr_scheduler = None  # Adam's moments belong to one client, and to one round but for v
        self.first_step, self.round_stats = first_step, RoundStats()
        if self.run_config.train.prox:
            trained = [p for p in self.adapted.model.parameters() if p.requires_grad]
            self.start = [(p, p.detach().clone()) for p in trained]

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Return TRL's optimizer, which goes on from the round's second moment if it has one."""
        optimizer = super().create_optimizer(model)
        if self.moment is not None:
            resume(optimizer, self.adapted.trained_parameters(), self.moment, self.adapted.schema)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LambdaLR:
        """Return the part of the federation's learning-rate schedule that belongs to this round."""
        total, settings = self.run_config.total_steps, self.run_config.grpo
        warmup = math.ceil(settings.warmup_ratio * total)
        optimizer = cast(torch.optim.Optimizer, optimizer or self.optimizer)
        whole = cast(LambdaLR, get_scheduler(settings.lr_scheduler_type, optimizer, warmup, total))
        start, rules = self.first_step, whole.lr_lambdas
        scheduler = LambdaLR(optimizer, [lambda step, rule=rule: rule(start + step) for rule in rules])
        self.lr_scheduler = scheduler
        return scheduler

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], images: Any, multimodal_fields: Any, num_generations: int, **_: Any
    ) -> tuple[list[list[int]], list[list[float]] | None]:
        """Return completions from the sampler, which gets each prompt once; TRL repeats it for each completion."""
        grpo = self.run_config.grpo
        needs_seed = self.run_config.backend.uses_vllm  # vLLM does not use the random numbers of this process
        sampling = Sampling(
            max_tokens=grpo.max_completion_length,
            temperature=grpo.temperature,
            top_p=grpo.top_p,
            top_k=grpo.top_k,
            seed=int(torch.randint(1 << 31, ())) if needs_seed else None,
        )
        starts = range(0, len(prompt_ids), num_generations)
        same_prompts = all(
            prompt_ids[i] == prompt_ids[start] for start in starts for i in range(start, start + num_generations)
        )
        size = num_generations if same_prompts else 1  # an environment may begin each rollout of a group differently
        groups = self.sampler.sample(prompt_ids[::size], sampling, count=size)
        completions = [completion for group in groups for completion in group]
        self.round_stats.sampled_tokens += sum(len(completion.tokens) for completion in completions)
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
        completions = with_opening(completions, opening(cast(Any, self.processing_class)))
        cut_off = [self._cut_off(ids) for ids in completion_ids_list]
        rows = [{**row, "truncated": cut} for row, cut in zip(inputs, cut_off, strict=True)]
        try:
            rewards_NF = super()._calculate_rewards(rows, prompts, completions, completion_ids_list)
        finally:
            self.round_stats.reward_s += time.perf_counter() - start
        texts = [last_said(completion) for completion in completions]
        # The rewards need not include `correctness`, so the statistics compare the answers themselves.
        correct = [is_right(t, row["answer"]) for t, row in zip(texts, inputs, strict=True)]
        grpo = self.run_config.grpo
        self.effective_P = effective_groups(rewards_NF, self.reward_weights, grpo, cut_off)
        self.round_stats.count(self.effective_P, correct)
        self.round_stats.add_signals(differing_pairs(rewards_NF, self.reward_weights, grpo) * self.effective_P)
        self.round_stats.spread += float(group_spreads(rewards_NF, self.reward_weights, grpo).sum())
        self.round_stats.completion_stats.add(texts, correct, completion_ids_list)
        return rewards_NF

    def _cut_off(self, ids: Sequence[int]) -> bool:
        """Return whether a completion reached the token limit without an end token: rewards get it as `truncated`."""
        model_ends = cast(Any, self.adapted.model.generation_config).eos_token_id
        ends = {cast(Any, self.processing_class).eos_token_id}
        ends.update(model_ends if isinstance(model_ends, list) else [model_ends])
        return len(ids) >= self.run_config.grpo.max_completion_length and ids[-1] not in ends

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
        """Return TRL's loss of the completions that have a gradient, scaled to the loss of the whole batch."""
        part, share = with_signal(inputs, self.run_config.grpo)
        if part is None:  # a loss of 0 that still has a gradient for each trained factor, as backward() needs one
            return torch.stack([0 * p.sum() for p in model.parameters() if p.requires_grad]).sum()
        loss = share * super().compute_loss(model, part)
        if "sampling_per_token_logps" in part and self._is_first_use:
            self.round_stats.compare(self.logprobs_NT, part)
        return loss

    @property
    def _is_first_use(self) -> bool:
        """Whether the completions of this pass have not been trained on yet: later, the policy has moved from them."""
        batch = cast(int, cast(GRPOConfig, self.args).steps_per_generation)
        return self._step // batch % self.run_config.grpo.num_iterations == 0

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **others: Any,
    ) -> Any:
        """Return (log-probabilities, entropies, auxiliary loss), as TRL does, from a pass that does less if it can."""
        by_prompt = None
        text_alone = all(
            value is None or value is False for value in others.values()
        )  # no image, no mixture of experts
        if self.run_config.backend.shared_prompts and text_alone:
            with self.accelerator.autocast():
                by_prompt = logprobs_by_prompt(model, input_ids, attention_mask, logits_to_keep, batch_size)
        if by_prompt is not None:
            result = (*by_prompt, None)
        else:
            result = super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **others
            )
        self.logprobs_NT = result[0].detach()
        return result

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        scored = super()._generate_and_score_completions(inputs)
        self.adapted.freeze()  # PEFT unfreezes every factor when the reference pass switches adapters
        size = self.run_config.grpo.num_generations
        scored["advantages"] *= self.effective_P.repeat_interleave(size)  # an advantage of float noise becomes 0
        if self.run_config.corrects_sampler:
            take_as_old_policy(scored)
        if self.memory is not None:
            return self._with_replayed(scored, self.memory)
        return scored

    def _with_replayed(self, scored: dict[str, Any], memory: Memory) -> dict[str, Any]:
        """Return the batch with replayed groups; the log-probabilities of new ones are those of the policy as it is."""
        if "old_per_token_logps" not in scored:
            ids, mask = (
                torch.cat([scored[f"prompt_{kind}"], scored[f"completion_{kind}"]], dim=1) for kind in ("ids", "mask")
            )
            with torch.no_grad():
                scored["old_per_token_logps"] = self._get_per_token_logps_and_entropies(
                    self.model, ids, mask, scored["completion_ids"].shape[1], batch_size=self.args.train_batch_size
                )[0]
        filler = cast(Any, self.processing_class).pad_token_id
        return memory.used_in(scored, self.effective_P, self.run_config.grpo.num_generations, filler)
