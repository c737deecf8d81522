"""Base models, from folders into memory: weights, quantised or not, and the tokenizer. No code of the folder's runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from ...common.errors import ConfigError
from .files import file_hash

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

    @property
    def dtype(self) -> str:
        """Type of the weights: `float32`, `bfloat16` or `float16`."""
        return str(self.model.dtype).removeprefix("torch.")

    @classmethod
    def load(cls, folder: Path, dtype: str, device: torch.device) -> Base:
        """Load a model folder: safetensors only, no code from the folder."""
        return cls(load_base(folder, dtype, device), load_tokenizer(folder), file_hash(folder), folder)


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


def load_base(folder: Path, dtype: str, device: torch.device) -> PreTrainedModel:
    """The base model of a folder, safetensors only, no code from the folder; `auto` takes the type of the file."""
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ConfigError(f"The model in {folder} cannot be loaded: {error}") from error
    model.to(device)  # pyright: ignore[reportArgumentType]
    return model
