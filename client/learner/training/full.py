"""Full fine-tuning of one client: all weights train, with the settings, rewards and trainer of a federation's client.

A federation cannot do this, because clients only ever send an adapter. Not supported: vLLM, which this project only
ever gives an adapter, and quantized weights, which cannot be trained.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from transformers import PreTrainedModel, set_seed

from ....common.errors import ConfigError
from ....common.settings.run_config import RunConfig
from ..models.adapted_model import AdaptedModel
from ..models.base_model import Base
from ..models.chat_template import keep_ends
from ..models.model_files import copy_tokenizer, file_hash, new_folder
from ..rewards import Reward
from ..samplers import Sampler
from ..samplers.own_model import OwnModelSampler
from .callbacks import StepLog
from .grpo_trainer import FederatedTrainer
from .trl_config import trl_config

WHOLE = "trainer_state.json"
"""The file that the Trainer writes last: a checkpoint without it is incomplete."""


def check_full(config: RunConfig) -> None:
    """Refuse settings that have no meaning in full fine-tuning of one client.

    Raises:
        ConfigError: names the setting.
    """
    clients = len(config.simulation.taking_part)
    if clients != 1:
        raise ConfigError(
            f"simulation.clients is {clients}, but full fine-tuning works with one client only: clients send an "
            "adapter, never all weights. Use --central, which trains one client with all problems; or federate an "
            "adapter with fedgrpo simulate."
        )
    for key, value, only, why in _no_meaning(config):
        if value not in only:
            raise ConfigError(f"{key} is {value}, but {why}. Set it to {only[0] if only[0] != '' else 'nothing'}.")


def _no_meaning(config: RunConfig) -> Iterator[tuple[str, object, tuple[object, ...], str]]:
    """Yield (setting, its value, the values it may have, why)."""
    yield (
        "backend.sampler",
        config.backend.sampler,
        ("transformers",),
        "vLLM needs an adapter, and there is none",
    )
    yield "backend.loader", config.backend.loader, ("transformers",), "full fine-tuning has no adapter for Unsloth"
    yield "backend.quantization", config.backend.quantization, ("none",), "quantized weights cannot be trained"
    yield "grpo.kl-reference", config.grpo.kl_reference, ("base", "none"), "there is no global adapter to measure from"
    yield "train.prox", config.train.prox, (0.0,), "there is no global adapter to stay near"
    yield (
        "train.optimizer-state",
        config.train.optimizer_state,
        ("fresh",),
        "all rounds are one, and Adam never restarts",
    )
    yield "train.replay", config.train.replay, (0,), "groups are kept for a client's next round alone"
    why = "there are no rounds after which what prompts have shown would count"
    yield "train.prompt-selection", config.train.prompt_selection, ("order",), why
    why = "there are no rounds that could end early"
    yield "train.min-signal", config.train.min_signal, (0.0,), why
    yield "simulation.tools", config.simulation.tools, ("",), "tools are not supported yet"
    yield (
        "simulation.environment",
        config.simulation.environment,
        ("",),
        "environments are not supported yet",
    )
    yield (
        "train.seconds-per-round",
        config.train.seconds_per_round,
        (0.0,),
        "nothing waits for this client",
    )


class _WholeModel:
    """A model without an adapter, with the part of `AdaptedModel` that trainer and sampler use."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    def freeze(self) -> None:
        """Leave every weight trainable."""

    @contextmanager
    def base_only(self) -> Iterator[None]:
        """Refuse: the base weights are overwritten by the first step."""
        raise NotImplementedError
        yield


class FullTrainer:
    """Training of all weights of a model, all rounds in one call; resumes from the last complete checkpoint."""

    def __init__(
        self,
        base: Base,
        config: RunConfig,
        rows: list[dict[str, Any]],
        rewards: Sequence[Reward],
        checkpoints: Path,
    ) -> None:
        """Create the trainer.

        Args:
            base: in float32: at GRPO's learning rates most steps are too small for a bfloat16 weight.
            rows: prompts in the order in which they are used.
        """
        self._base, self._checkpoints, self.log = base, checkpoints, StepLog()
        whole = cast(AdaptedModel, _WholeModel(base.model))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.trainer = FederatedTrainer(
                model=base.model,
                reward_funcs=list(rewards),
                args=trl_config(config, base.model.device, checkpoints),
                train_dataset=Dataset.from_list(rows),
                processing_class=base.tokenizer,
                callbacks=[self.log],
            )
        self.trainer.reward_weights = torch.tensor([reward.weight for reward in rewards])
        self.sampler: Sampler = OwnModelSampler(whole, base.tokenizer)
        self.trainer.connect(whole, config, self.sampler)

    @property
    def steps_done(self) -> int:
        """Number of steps in the last complete checkpoint."""
        steps = [int(path.name.rpartition("-")[2]) for path in self._checkpoints.glob("checkpoint-*")]
        return max((step for step in steps if (self._checkpoint(step) / WHOLE).is_file()), default=0)

    def train(self, on_step: Callable[[int, dict[str, float]], None]) -> None:
        """Train the remaining steps.

        Args:
            on_step: called after each step with its number and TRL's metrics.

        Raises:
            RewardError: a reward function failed; the last checkpoint is kept.
        """
        self.log.on_step = lambda step, figures: on_step(step, dict(figures))
        set_seed(self.trainer.args.seed)
        last_step = self.steps_done
        for path in self._checkpoints.glob("checkpoint-*"):
            if not (path / WHOLE).is_file():
                shutil.rmtree(path)
        self.trainer.train(resume_from_checkpoint=str(self._checkpoint(last_step)) if last_step else None)

    def save(self, folder: Path) -> str:
        """Write the trained model as a model folder, completely or not at all, and return its SHA-256."""
        with new_folder(folder) as part:
            self._base.model.save_pretrained(part)
            copy_tokenizer(self._base.folder, part)
            keep_ends(part, self._base.model)
            return file_hash(part)

    def _checkpoint(self, step: int) -> Path:
        return self._checkpoints / f"checkpoint-{step}"
