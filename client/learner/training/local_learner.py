"""A learner in this process: one loaded base model, shared by any number of clients that swap their adapters."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ....common.adapter.schema import AdapterSchema
from ....common.errors import DataError
from ....common.foreign import safe_logger
from ....common.messages.messages import Capabilities, EvaluateTask, Evaluation, TrainTask, Update
from ....common.messages.metric_names import PRIVATE_METRICS, TRAIN_METRICS, reward_metrics
from ....common.seeds import derived_seed
from ....common.settings.run_config import RunConfig
from ..data.problems import Problem, in_blocks
from ..data.shard_reader import ShardReader
from ..models.adapted_model import adapter_schema
from ..models.base_model import Base
from ..privacy.rounds import PrivateRounds
from ..privacy.spent import Spent
from ..rewards import try_rewards
from ..samplers import Sampling
from ..tools import ToolBox
from .client_data import ClientData
from .evaluate import Answered, answer_all, count, prompt_texts
from .kept_state import RoundState
from .local_trainer import LocalRound, LocalTrainer
from .watcher import Watcher

LOGGER = safe_logger("fedgrpo.learner")
MEASURED_TOKENS = 16
KEPT_ANSWERS = 4


@dataclass(frozen=True, slots=True)
class Hardware:
    """The machine of a client, as far as it is measured and its policy lets it be reported."""

    device: str = "unknown"
    """One of `messages.DEVICES`."""
    memory_bytes: int = 0
    """Of the device, or of the machine; 0 if not measured."""
    tokens_per_second: float = 0.0
    """Tokens sampled per second in a batch of a step's size; 0 if not measured."""


UNKNOWN_HARDWARE = Hardware()


class LoadedModel:
    """A base model with adapter and trainer, for the settings of one run."""

    def __init__(
        self, base: Base, config: RunConfig, example: Problem, rank: int = 0, *, box: ToolBox | None = None
    ) -> None:
        """Adapt a base model.

        Args:
            rank: this client's rank, if it is smaller than the federation's (`adapter_schema`).
            box: tools that the policy may call during a completion.
        """
        self.config = config
        self.sha256, self.dtype = base.sha256, base.dtype
        self.tokenizer = base.tokenizer
        self.schema: AdapterSchema = adapter_schema(base.model, config, rank)
        if box:
            LOGGER.warning("tools are available in training only: held-out problems are answered without them")
        self.trainer = LocalTrainer(base, self.schema, config, example.row(""), box or ToolBox())

    def measure(self, example: Problem, system_prompt: str) -> Hardware:
        """Sample a batch of a step's size, and return what the machine is and how fast it samples."""
        grpo, device = self.config.grpo, self.trainer.adapted.model.device
        prompt = self.tokenizer(prompt_texts(self.tokenizer, [example], system_prompt), add_special_tokens=False)
        sampling = Sampling(max_tokens=min(MEASURED_TOKENS, grpo.max_completion_length), temperature=1.0)
        start = time.perf_counter()
        groups = self.trainer.sampler.sample(
            prompt["input_ids"] * grpo.prompts_per_step, sampling, count=grpo.num_generations, base=True
        )
        tokens = sum(len(completion.tokens) for group in groups for completion in group)
        speed = tokens / (time.perf_counter() - start)
        if device.type == "cuda":
            return Hardware("cuda", torch.cuda.get_device_properties(device).total_memory, speed)
        return Hardware("cpu", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), speed)

    def prompt_lengths(self, problems: Sequence[Problem], system_prompt: str) -> list[int]:
        """Return the number of tokens of each problem's prompt, chat template included."""
        texts = prompt_texts(self.tokenizer, problems, system_prompt)
        return [len(ids) for ids in self.tokenizer(texts, add_special_tokens=False)["input_ids"]]


class LocalLearner:
    """A `Learner` for one client on a loaded model."""

    def __init__(
        self, model: LoadedModel, data: ClientData, watcher: Watcher, hardware: Hardware = UNKNOWN_HARDWARE
    ) -> None:
        """Select the prompts that are short enough, and try the rewards.

        Args:
            hardware: what the client reports about its machine (`LoadedModel.measure`).

        Raises:
            DataError: every prompt is longer than grpo.max-prompt-length.
            RewardError: a reward function fails on the first prompt.
        """
        limit = model.config.grpo.max_prompt_length
        lengths = model.prompt_lengths(data.shard, data.system_prompt)
        self._model, self._data, self._watcher, self._hardware = model, data, watcher, hardware
        block = 1 if model.config.dp.on else data.block  # a block's members depend on all the other prompts
        self._shard = in_blocks(data.shard, lengths, block, limit)
        if not self._shard:
            shortest = min(lengths, default=0)
            what = f"{block} prompts" if block > 1 else "prompt"
            raise DataError(
                f"{data.organisation} has no {what} of at most grpo.max-prompt-length = {limit} tokens "
                f"(the shortest of {len(lengths)} has {shortest}). Raise the limit or shorten the prompts."
            )
        try_rewards(data.rewards, self._shard[0].row(data.system_prompt))
        self._private = PrivateRounds(model.config, data.spent, self._shard, data.unit) if model.config.dp.on else None
        self._reader = ShardReader(model.config, self._shard, data.organisation, block, data.record)
        self._base_answers: dict[float, list[Answered]] = {}
        self._last_answers: dict[tuple[str, float], list[Answered]] = {}

    def capabilities(self) -> Capabilities:
        """Return the organisation's name, the adapter it trains, and how many prompts it has."""
        names = () if self._private else tuple(reward.name for reward in self._data.rewards)
        return Capabilities(
            organisation=self._data.organisation,
            schema=self._model.schema,
            base_model_sha256=self._model.sha256,
            reward_names=names,
            metrics=PRIVATE_METRICS if self._private else TRAIN_METRICS + reward_metrics(names),
            examples=len(self._shard),
            prompts_too_long=len(self._data.shard) - len(self._shard),
            held_out=len(self._data.held_out),
            device=self._hardware.device,
            memory_bytes=self._hardware.memory_bytes,
            tokens_per_second=self._hardware.tokens_per_second,
        )

    def price(self, spent: Spent) -> str:
        """Return what the run costs in privacy, over what is spent; empty if it is not private."""
        if not self._private:
            return ""
        trains = self._model.config.method.trains
        return str(self._private.run_price(spent, max(self._model.schema.size_of(factors) for factors in trains)))

    def train(self, task: TrainTask) -> Update:
        """Run one round of local GRPO from the task's adapter, on the round's prompts of the shard."""
        if self._private:
            return self._train_privately(task, self._private)
        config, trainer = self._model.config, self._model.trainer
        problems = self._reader.next(task)
        work = LocalRound(
            adapter=task.adapter,
            trains=config.method.trains_in(task.round),
            rows=[problem.row(self._data.system_prompt) for problem in problems],
            rewards=self._data.rewards,
            seed=derived_seed(config.federation.seed, "train", self._data.organisation, task.round),
            first_step=(task.round - 1) * config.train.steps_per_round,
            state=self._state(task),
            block=self._data.block,
            on_step=self._watcher.step,
        )
        delta, steps, metrics = trainer.train(work)
        self._keep(task, work)
        self._reader.note(task, problems, trainer.signals)
        self._watcher.trained(task.round, metrics)
        return Update(delta=delta, num_steps=steps, num_examples=config.prompts_in(steps), metrics=metrics)

    def _train_privately(self, task: TrainTask, private: PrivateRounds) -> Update:
        """Charge a round to the budget, and run it on batches of units drawn by chance.

        Of what was measured nothing leaves but epsilon: metrics, and the true number of prompts, tell of the prompts.
        """
        config, trainer = self._model.config, self._model.trainer
        epsilon = private.charge(task)
        work = LocalRound(
            adapter=task.adapter,
            trains=config.method.trains_in(task.round),
            rows=[self._shard[0].row(self._data.system_prompt)],
            batches=private.batches(self._data.system_prompt),
            expected_units=private.expected_units,
            rewards=self._data.rewards,
            seed=secrets.randbits(32),
            first_step=(task.round - 1) * config.train.steps_per_round,
            state=self._state(task),
            on_step=self._watcher.step,
        )
        delta, steps, metrics = trainer.train(work)
        self._keep(task, work)
        leaving = {"privacy/epsilon": epsilon}
        self._watcher.trained(task.round, metrics | leaving)
        return Update(delta=delta, num_steps=steps, num_examples=config.prompts_in(steps), metrics=leaving)

    def _state(self, task: TrainTask) -> RoundState:
        return self._data.kept.load(task, self._model.config.train) if self._data.kept else RoundState()

    def _keep(self, task: TrainTask, work: LocalRound) -> None:
        if self._data.kept:
            self._data.kept.keep(task, self._model.trainer.state_after(work))

    def evaluate(self, task: EvaluateTask) -> Evaluation:
        """Answer the held-out problems with the adapter, and count against the base model's answers."""
        adapted = self._model.trainer.adapted
        passes = 1 if task.temperature in self._base_answers else 2  # the base model answers once in a process
        if passes == 2:
            self._base_answers[task.temperature] = self._answers(task.temperature, passes, base=True)
        adapted.load(task.adapter)
        answers = self._answers(task.temperature, passes)
        base, columns = self._base_answers[task.temperature], self._model.config.evaluation.class_columns
        self._watcher.answers(task, self._data.held_out, base, answers)
        last = self._last_answers.get((task.against, task.temperature))
        self._remember((task.adapter.sha256, task.temperature), answers)
        return count(self._data.held_out, answers, base, columns, last)

    def _remember(self, key: tuple[str, float], answers: list[Answered]) -> None:
        """Keep the answers of the last few adapters: the next one may be compared with any of them."""
        self._last_answers[key] = answers
        while len(self._last_answers) > KEPT_ANSWERS:
            del self._last_answers[next(iter(self._last_answers))]

    def _answers(self, temperature: float, passes: int, *, base: bool = False) -> list[Answered]:
        """Answer all held-out problems; `passes` is how often this evaluation does so, and the last one is not base."""
        config = self._model.config
        earlier = 0 if base else passes - 1
        return answer_all(
            self._model.trainer.sampler,
            self._model.tokenizer,
            self._data.held_out,
            config,
            system_prompt=self._data.system_prompt,
            temperature=temperature,
            seed=derived_seed(config.federation.seed, "evaluate", self._data.organisation),
            base=base,
            on_batch=lambda number, of: self._watcher.batch(number + earlier * of, passes * of),
        )
