"""Full fine-tuning at a single site: all weights train, by the settings, rewards and trainer of a federation's client.

There is no adapter, so nothing could be sent: a federation cannot do this. What is left out: vLLM, which is given an
adapter by every other path here, and quantised weights, which cannot be trained.
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
from transformers import PreTrainedModel, PrinterCallback, ProgressCallback, set_seed

from ....common.errors import ConfigError
from ....common.settings.run_config import RunConfig
from ..models.adapted_model import AdaptedModel
from ..models.base_model import Base
from ..models.model_files import copy_tokenizer, file_hash, new_folder
from ..rewards import Reward
from ..samplers import Sampler
from ..samplers.own_model import OwnModelSampler
from .grpo_trainer import FederatedTrainer, StepLog, trl_config
from .round_stats import RoundStats

WHOLE = "trainer_state.json"
"""What the Trainer writes last: a checkpoint without it was cut off."""


def check_full(config: RunConfig) -> None:
    """Refuse settings that have no meaning where all weights of one site train.

    Raises:
        ConfigError: names the setting.
    """
    clients = len(config.simulation.taking_part)
    if clients != 1:
        raise ConfigError(
            f"simulation.clients is {clients}, but all weights can be trained at a single site only: nothing but an "
            "adapter is ever sent. Give --central, which trains one client with all problems; or federate an adapter "
            "with fedgrpo simulate."
        )
    for key, value, only, why in _no_meaning(config):
        if value not in only:
            raise ConfigError(f"{key} is {value}, but {why}. Set it to {only[0] if only[0] != '' else 'nothing'}.")


def _no_meaning(config: RunConfig) -> Iterator[tuple[str, object, tuple[object, ...], str]]:
    """(setting, its value, the values it may have, why)."""
    yield "backend.sampler", config.backend.sampler, ("transformers",), "vLLM is given an adapter, and there is none"
    yield "backend.loader", config.backend.loader, ("transformers",), "Unsloth's kernels are for its adapters"
    yield "backend.quantization", config.backend.quantization, ("none",), "quantised weights cannot be trained"
    yield "grpo.kl-reference", config.grpo.kl_reference, ("base", "none"), "there is no global adapter to measure from"
    yield "train.prox", config.train.prox, (0.0,), "there is no global adapter to stay near"
    yield "simulation.tools", config.simulation.tools, ("",), "full fine-tuning knows no tools yet"
    yield "simulation.environment", config.simulation.environment, ("",), "full fine-tuning knows no environments yet"
    yield "train.seconds-per-round", config.train.seconds_per_round, (0.0,), "nobody waits for a round here"


class _WholeModel:
    """A model without an adapter, to whom asks for an adapted one."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    def freeze(self) -> None:
        """Everything trains."""

    @contextmanager
    def base_only(self) -> Iterator[None]:
        """The base is gone once the first step is taken."""
        raise NotImplementedError
        yield


class FullTrainer:
    """All weights of a model, trained over all rounds in one; begins where its last whole checkpoint ends."""

    def __init__(
        self,
        base: Base,
        config: RunConfig,
        rows: list[dict[str, Any]],
        rewards: Sequence[Reward],
        checkpoints: Path,
    ) -> None:
        """Args:
        base: in float32: at GRPO's learning rates a bfloat16 weight would round most steps away.
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
        self.trainer.remove_callback(PrinterCallback)
        self.trainer.remove_callback(ProgressCallback)
        self.trainer.reward_weights = torch.tensor([reward.weight for reward in rewards])
        self.trainer.adapted, self.trainer.run_config, self.trainer.round_stats = whole, config, RoundStats()
        self.sampler: Sampler = OwnModelSampler(whole, base.tokenizer)
        self.trainer.sampler = self.sampler

    @property
    def steps_done(self) -> int:
        """Steps that the last whole checkpoint holds."""
        found = [int(path.name.rpartition("-")[2]) for path in self._checkpoints.glob("checkpoint-*")]
        return max((step for step in found if (self._checkpoint(step) / WHOLE).is_file()), default=0)

    def train(self, on_step: Callable[[int, dict[str, float]], None]) -> None:
        """Train what is left of the steps.

        Args:
            on_step: told after each step: its number and TRL's metrics.

        Raises:
            RewardError: a reward function failed; the last checkpoint stands.
        """
        self.log.on_step = lambda step, figures: on_step(step, dict(figures))
        set_seed(self.trainer.args.seed)
        done = self.steps_done
        for path in self._checkpoints.glob("checkpoint-*"):
            if not (path / WHOLE).is_file():
                shutil.rmtree(path)
        self.trainer.train(resume_from_checkpoint=str(self._checkpoint(done)) if done else None)

    def save(self, folder: Path) -> str:
        """Write the trained model as a model folder, whole or not at all; its SHA-256."""
        with new_folder(folder) as part:
            self._base.model.save_pretrained(part)
            copy_tokenizer(self._base.folder, part)
            return file_hash(part)

    def _checkpoint(self, step: int) -> Path:
        return self._checkpoints / f"checkpoint-{step}"
