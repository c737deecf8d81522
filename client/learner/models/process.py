"""Settings of the process that holds a model: quiet libraries, its device, and threads on a CPU."""

from __future__ import annotations

import os
import warnings

import torch
from transformers.utils import logging as transformers_logging

from ....common.errors import ConfigError


def prepare_process(device: str = "auto", threads: int = 1) -> torch.device:
    """Silence libraries and telemetry, and set the threads on a CPU.

    Args:
        device: `auto` uses a GPU if there is one.
        threads: unless OMP_NUM_THREADS is set.

    Raises:
        ConfigError: the device does not exist here.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    chosen = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"model.device is {device}, but PyTorch finds no GPU here. Use cpu, or auto.")
    if chosen.type == "cpu":
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", threads)))
    return chosen
