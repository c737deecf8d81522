"""A supervised start before GRPO: LoRA on demonstrations, merged into the base. The only file that knows SFTTrainer.

The result is a model folder like any other. Every client of a federation must have the same one: its hash is compared.
Not supported: packing and sharding over GPUs, since a cold start is a few hundred short examples.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from datasets import Dataset, disable_progress_bars
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportPrivateImportUsage]
from trl.data_utils import common_prefix_length

from ....common.bounds import at_least, between
from ....common.errors import ConfigError, DataError, DivergedError
from ....common.settings.run_config import RunConfig
from ..models.adapted_model import adapter_schema, lora_config
from ..models.base_model import Base
from ..models.chat_template import keep_ends, opening, turn_end
from ..models.model_files import TAUGHT, copy_tokenizer, file_hash, new_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class SFT:
    """Settings of a supervised start."""

    epochs: float = 3.0
    steps: int = 0
    """Optimizer steps; 0 uses `epochs`."""
    learning_rate: float = 2e-4
    """Decays linearly to 0."""
    rank: int = 16
    alpha: int = 32
    batch_size: int = 8
    """Demonstrations per optimizer step."""
    max_length: int = 1024
    """Tokens of prompt and completion. Longer demonstrations are left out: cut off, they would teach the model not to
    end."""
    seed: int = 0
    system_prompt: str = ""

    def __post_init__(self) -> None:
        between("--epochs", self.epochs, 0.0, 1e4, "each demonstration must be read", open_low=True)
        at_least("--steps", self.steps, 0, "0 uses --epochs")
        between("--learning-rate", self.learning_rate, 0.0, 1.0, "it is the length of a step", open_low=True)
        at_least("--rank", self.rank, 1, "an adapter of rank 0 has no parameters")
        at_least("--batch-size", self.batch_size, 1, "a step needs at least one demonstration")
        at_least("--max-length", self.max_length, 2, "a demonstration has a prompt and a completion")
        between("--seed", self.seed, 0, (1 << 32) - 1, "seeds have 32 bits")


@dataclass(frozen=True, slots=True)
class Taught:
    """Result of a supervised start."""

    folder: Path
    sha256: str
    """Of the new model folder (`file_hash`)."""
    base_sha256: str
    examples: int
    left_out: int
    """Demonstrations that were too long."""
    losses: list[float]
    """Mean loss of the completions' tokens, by step."""


def teach(
    base: Base,
    demonstrations: Sequence[tuple[str, str]],
    settings: SFT,
    out: Path,
    on_step: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> Taught:
    """Train a model to complete as demonstrated, and write it as a new model folder, completely or not at all.

    The loss covers the completion's tokens only; prompts use the model's chat template.

    Args:
        demonstrations: (question, completion).
        on_step: called after each step with its number, the number of steps, and the loss.

    Raises:
        ConfigError: `out` exists, or the chat template writes no end token, which the model would not learn then.
        DataError: every demonstration is too long.
        DivergedError: the loss is not finite.
    """
    _require_turn_end(base)
    chats = [_chat(question, completion, settings.system_prompt) for question, completion in demonstrations]
    rows = [_tokens(base, chat) for chat in chats]
    kept = [row for row in rows if len(row["input_ids"]) <= settings.max_length]
    if not kept:
        raise DataError(
            f"Each of the {len(chats)} demonstrations has more than --max-length {settings.max_length} tokens."
        )
    log = _Losses(on_step)
    with new_folder(out) as part, TemporaryDirectory() as scratch:
        trainer = _trainer(base, kept, settings, log, scratch)
        trainer.train()
        merged = cast(Any, trainer.model).merge_and_unload()
        merged.save_pretrained(part)
        copy_tokenizer(base.folder, part)
        keep_ends(part, base.model)
        sha256 = file_hash(part)
        record = {"base_sha256": base.sha256, "examples": len(kept), "losses": log.losses, "settings": asdict(settings)}
        (part / TAUGHT).write_text(json.dumps(record, indent=1) + "\n")
    return Taught(out, sha256, base.sha256, len(kept), len(chats) - len(kept), log.losses)


def _require_turn_end(base: Base) -> None:
    if turn_end(base.tokenizer) is None:
        raise ConfigError(
            f"The chat template of the model in {base.folder} writes no end token after an answer, so completions of "
            "the taught model would never end. Write {{ eos_token }} after the assistant's content in a copy of its "
            "chat_template.jinja, or use another model."
        )


class _Losses(TrainerCallback):
    """A record of the loss of each step, passed on to `on_step`."""

    def __init__(self, on_step: Callable[[int, int, float], None]) -> None:
        self.losses: list[float] = []
        self._on_step = on_step

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))
            if not abs(self.losses[-1]) < float("inf"):
                raise DivergedError(
                    f"The loss is {self.losses[-1]} at step {state.global_step}; the model was not written. "
                    "Lower --learning-rate."
                )
            self._on_step(state.global_step, state.max_steps, self.losses[-1])


def _trainer(base: Base, rows: list[dict[str, list[int]]], settings: SFT, log: _Losses, scratch: str) -> SFTTrainer:
    adapter = {"adapter.rank": settings.rank, "adapter.alpha": settings.alpha, "aggregation.method": "naive"}
    schema = adapter_schema(base.model, RunConfig().with_values(adapter))
    disable_progress_bars()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = SFTTrainer(
            model=base.model,
            args=_arguments(settings, base.model.device, base.dtype, scratch),
            train_dataset=Dataset.from_list(rows),
            processing_class=base.tokenizer,
            peft_config=lora_config(schema),
            callbacks=[log],
        )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _arguments(settings: SFT, device: torch.device, dtype: str, scratch: str) -> SFTConfig:
    on_cpu = device.type == "cpu"
    return SFTConfig(
        output_dir=scratch,
        num_train_epochs=settings.epochs,
        max_steps=settings.steps or -1,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="linear",
        completion_only_loss=True,
        max_length=None,
        seed=settings.seed,
        use_cpu=on_cpu,
        bf16=not on_cpu and dtype == "bfloat16",
        gradient_checkpointing=not on_cpu,
        dataloader_pin_memory=not on_cpu,
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )


def _chat(question: str, completion: str, system_prompt: str) -> dict[str, Any]:
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []
    return {
        "prompt": [*system, {"role": "user", "content": question}],
        "completion": [{"role": "assistant", "content": completion}],
    }


def _tokens(base: Base, chat: dict[str, Any]) -> dict[str, list[int]]:
    """Return a demonstration's tokens, and which of them are the completion's.

    A template that begins the answer itself renders prompt and answer in one go otherwise than at inference (that of
    DeepSeek-R1 drops the thinking), so the answer is put after the prompt here.
    """
    tokenizer, answer = base.tokenizer, str(chat["completion"][0]["content"])
    before, whole = (
        str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=asks))
        for turns, asks in ((chat["prompt"], True), ([*chat["prompt"], *chat["completion"]], False))
    )
    prompt, ids = (list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in (before, whole))
    if whole.startswith(before):
        completion = ids[common_prefix_length(prompt, ids) :]
    else:
        rest = answer.removeprefix(opening(tokenizer).strip()).lstrip()
        end = turn_end(tokenizer)
        completion = [*tokenizer(rest, add_special_tokens=False)["input_ids"], end]
        ids = [*prompt, *completion]
    return {"input_ids": ids, "completion_mask": [0] * (len(ids) - len(completion)) + [1] * len(completion)}
