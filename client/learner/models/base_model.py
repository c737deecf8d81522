"""Base models in memory: weights, quantized or not, and the tokenizer. Code from a model folder is never run."""

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
from .chat_template import adopt_turn_end, mend, notes
from .model_files import file_hash
from .unsloth_backend import load_with_unsloth

PROBE = "If 17 apples cost $34.50, what do 3 cost?\n<reasoning>\n"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")


@dataclass(frozen=True, slots=True)
class Base:
    """A base model loaded in memory, with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    sha256: str
    """Of its files (`file_hash`)."""
    folder: Path
    """The model folder."""
    loader: str = "transformers"
    """The library that loaded the model, and adapts it."""
    notes: tuple[str, ...] = ()
    """What a user should know of its chat template (`chat_template.notes`)."""

    @property
    def dtype(self) -> str:
        """Type of the weights: `float32`, `bfloat16` or `float16`."""
        return str(self.model.dtype).removeprefix("torch.")

    @classmethod
    def load(cls, folder: Path, dtype: str, device: torch.device, backend: Backend | None = None) -> Base:
        """Load a model folder: safetensors only, without running code from it.

        Args:
            backend: loader and quantization; None uses the defaults. For Unsloth, call `import_unsloth` before
                importing this file.

        Raises:
            ConfigError: the folder does not hold a model, or a package that the backend needs is missing.
        """
        backend = backend or Backend()
        check_backend(backend)
        if backend.loader == "unsloth":
            model = load_with_unsloth(folder, dtype, four_bit=backend.quantization == "4bit")
        else:
            model = load_base(folder, dtype, device, backend.quantization)
        tokenizer = load_tokenizer(folder)
        adopt_turn_end(model, tokenizer)
        return cls(model, tokenizer, file_hash(folder), folder, backend.loader, notes(tokenizer, folder))


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model folder, with its chat template mended (`chat_template.mend`).

    `AutoTokenizer` rebuilds the tokenizer of some model types from its vocabulary, and so silently replaces a custom
    one. If the two disagree on a probe, the file is used as it is.

    Raises:
        ConfigError: the folder has no tokenizer, it cannot be loaded, or it has no chat template that renders.
    """
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ConfigError(
            f"The model folder {folder} has no tokenizer: it contains none of {', '.join(TOKENIZER_FILES)}."
        )
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
        raise ConfigError(
            f"The tokenizer in {folder} has no chat template, which is needed to build prompts. Use an instruct model."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    mend(tokenizer, folder)
    return tokenizer


def load_base(folder: Path, dtype: str, device: torch.device, quantization: str = "none") -> PreTrainedModel:
    """Load the base model of a folder: safetensors only, without running code from it.

    Args:
        dtype: type of the weights, and of the computation with quantized ones; `auto` uses that of the file.
        quantization: `none`, `8bit`, or `4bit`: NF4 with double quantization (QLoRA, arXiv:2305.14314).

    Raises:
        ConfigError: the folder does not hold a model that can be loaded.
    """
    quantized = {} if quantization == "none" else _quantized(quantization, dtype, device)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            **quantized,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ConfigError(f"The model in {folder} cannot be loaded: {error}") from error
    if quantized:
        _keep_trainable(model)
    else:
        model.to(device)  # pyright: ignore[reportArgumentType]
    if device.type == "cpu" and model.dtype == torch.bfloat16:
        _pack_hidden_states(model)
    return model


def _pack_hidden_states(model: PreTrainedModel) -> None:
    """Have the output layer read hidden states that lie in one piece.

    Of the last positions alone, which is all that GRPO needs, they are a slice with gaps. On a CPU bfloat16 is then
    multiplied by a copy of the vocabulary's weights for each sequence, which takes half the time of a forward pass.
    """
    head = model.get_output_embeddings()
    if isinstance(head, torch.nn.Linear):
        head.register_forward_pre_hook(lambda module, inputs: (inputs[0].contiguous(),))


def _keep_trainable(model: PreTrainedModel) -> None:
    """Keep 4-bit weights trainable on a CPU with AVX512-BF16: bitsandbytes would repack them for inference at the first
    completion, permanently, and a backward pass would fail."""
    from bitsandbytes.nn.modules import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _quantized(quantization: str, dtype: str, device: torch.device) -> dict[str, Any]:
    config = BitsAndBytesConfig(
        load_in_4bit=quantization == "4bit",
        load_in_8bit=quantization == "8bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if dtype == "auto" else getattr(torch, dtype),
    )
    return {"quantization_config": config, "device_map": {"": str(device)}}
