"""Base models, from folders into memory: weights, quantised or not, and the tokenizer. No code of the folder's runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from ....common.errors import ConfigError
from ....common.settings.backend import Backend
from .backend_check import check_backend
from .model_files import file_hash
from .unsloth_backend import load_with_unsloth

PROBE = "If 17 apples cost $34.50, what do 3 cost?\n<reasoning>\n"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")


@dataclass(frozen=True, slots=True)
class Base:
    """A base model, resident in memory, with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    sha256: str
    """Of its files (`file_hash`)."""
    folder: Path
    """Where they lie."""
    loader: str = "transformers"
    """What loaded them, and adapts them."""

    @property
    def dtype(self) -> str:
        """Type of the weights: `float32`, `bfloat16` or `float16`."""
        return str(self.model.dtype).removeprefix("torch.")

    @classmethod
    def load(cls, folder: Path, dtype: str, device: torch.device, backend: Backend | None = None) -> Base:
        """Load a model folder: safetensors only, no code from the folder.

        Args:
            backend: loader and quantization; none takes the defaults. `import_unsloth` comes before this file.

        Raises:
            ConfigError: the folder holds no model, or a package that the backend needs is not there.
        """
        backend = backend or Backend()
        check_backend(backend)
        if backend.loader == "unsloth":
            model = load_with_unsloth(folder, dtype, four_bit=backend.quantization == "4bit")
        else:
            model = load_base(folder, dtype, device, backend.quantization)
        return cls(model, load_tokenizer(folder), file_hash(folder), folder, backend.loader)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer a model folder holds.

    `AutoTokenizer` rebuilds the tokenizer of some model types from its vocabulary and so replaces a custom one
    without a word. Where the two disagree on a probe, the file itself is right.
    """
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ConfigError(f"The model folder {folder} holds no tokenizer: none of {', '.join(TOKENIZER_FILES)}.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"The tokenizer in {folder} cannot be loaded: {error}") from error
    file = folder / "tokenizer.json"
    if file.is_file():
        exact = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        if exact(PROBE)["input_ids"] != tokenizer(PROBE)["input_ids"]:
            tokenizer = exact
    if tokenizer.chat_template is None:
        raise ConfigError(f"The tokenizer in {folder} has no chat template, so prompts cannot be put to this model.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer


def load_base(folder: Path, dtype: str, device: torch.device, quantization: str = "none") -> PreTrainedModel:
    """The base model of a folder, safetensors only, no code from the folder.

    Args:
        dtype: of the weights, and of what is computed with quantised ones; `auto` takes that of the file.
        quantization: `none`, `8bit`, or `4bit`: NF4, with its constants quantised too (QLoRA, arXiv:2305.14314).
    """
    quantised = {} if quantization == "none" else _quantised(quantization, dtype, device)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            **quantised,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ConfigError(f"The model in {folder} cannot be loaded: {error}") from error
    if quantised:
        _keep_trainable(model)
    else:
        model.to(device)  # pyright: ignore[reportArgumentType]
    return model


def _keep_trainable(model: PreTrainedModel) -> None:
    """On a CPU with AVX512-BF16, bitsandbytes repacks 4-bit weights for inference at the first completion, for good; a
    backward pass through them fails then."""
    from bitsandbytes.nn.modules import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _quantised(quantization: str, dtype: str, device: torch.device) -> dict[str, Any]:
    config = BitsAndBytesConfig(
        load_in_4bit=quantization == "4bit",
        load_in_8bit=quantization == "8bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if dtype == "auto" else getattr(torch, dtype),
    )
    return {"quantization_config": config, "device_map": {"": str(device)}}
