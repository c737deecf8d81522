"""Our settings as TRL's configuration: under TRL's own names, but for those that fedgrpo implements itself."""

from __future__ import annotations

import math
import os
from dataclasses import fields
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import torch
from trl import GRPOConfig  # pyright: ignore[reportPrivateImportUsage]
from trl.chat_template_utils import add_response_schema, supports_tool_calling

from ....common.errors import ConfigError
from ....common.settings.run_config import RunConfig
from ..models.base_model import Base
from ..tools import ToolBox

NOT_FOR_TRL = ("max_prompt_length", "lr_scheduler_type", "warmup_ratio", "kl_reference")
"""GRPO settings that fedgrpo implements itself; all the others are passed to TRL unchanged, under its own names."""
ZERO_IS_NONE = ("off_policy_mask_threshold", "delta")
"""Settings whose 0 is TRL's None."""


def trl_config(
    config: RunConfig, device: torch.device, checkpoints: Path | None = None, *, dtype: str = ""
) -> GRPOConfig:
    """Return the settings as TRL's configuration, with everything off that sends data to a third party.

    Args:
        checkpoints: folder for TRL's checkpoints, written after each round that ends with a batch of completions, when
            all rounds run in one call of `train`: TRL does not save completions, so a run that resumed between two
            iterations over them would sample others. None configures a single round without checkpoints.
        dtype: of the base model as it was loaded; needed where `model.dtype` is `auto`.
    """
    on_cpu = device.type == "cpu"
    weights = dtype if config.model.dtype == "auto" else config.model.dtype
    settings: dict[str, Any] = {f.name: getattr(config.grpo, f.name) for f in fields(config.grpo)}
    settings = {name: value for name, value in settings.items() if name not in NOT_FOR_TRL}
    settings |= {name: settings[name] or None for name in ZERO_IS_NONE}
    if config.dp.on:  # a step of `PrivateTrainer` is one batch for TRL, however many passes it takes
        settings["per_device_train_batch_size"] *= settings["gradient_accumulation_steps"]
        settings["gradient_accumulation_steps"] = 1
    return GRPOConfig(
        output_dir=str(checkpoints or Path(gettempdir()) / f"fedgrpo-trl-{os.getpid()}"),
        **settings,
        max_steps=config.total_steps if checkpoints else config.train.steps_per_round,
        lr_scheduler_type="constant",
        shuffle_dataset=False,
        seed=config.federation.seed,
        use_cpu=on_cpu,
        bf16=not on_cpu and weights == "bfloat16",
        gradient_checkpointing={"on": True, "off": False, "auto": not on_cpu}[config.backend.gradient_checkpointing],
        dataloader_num_workers=0,
        dataloader_pin_memory=not on_cpu,
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        save_strategy="steps" if checkpoints else "no",
        save_steps=math.lcm(config.train.steps_per_round, config.grpo.num_iterations),
        save_total_limit=2,
        disable_tqdm=True,
    )


def tool_arguments(box: ToolBox, base: Base) -> dict[str, Any]:
    """Return the arguments of the trainer for a tool box.

    Raises:
        ConfigError: the model's chat template does not support tools.
    """
    if not box:
        return {}
    try:
        if not supports_tool_calling(base.tokenizer):
            raise ValueError("it does not render tool calls and their results.")
        if getattr(base.tokenizer, "response_template", None) is None:
            add_response_schema(base.tokenizer)
    except ValueError as error:
        raise ConfigError(
            f"There are tools, but the chat template of the model in {base.folder} does not support them: {error} "
            "Use a model of Qwen2.5 or Qwen3, or give the tokenizer a response_template."
        ) from error
    return {"tools": list(box.tools), "environment_factory": box.environment}
