"""The adapter merged into its base model, with a check that the result equals the trained model.

The product is computed here, in float64, and the logits are compared with those of PEFT's layers. Everything is held in
float32, one copy at a time: four bytes per parameter of the base model.
"""

from __future__ import annotations

import gc
import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.utils import logging

from ...client.learner.models.adapted_model import attach
from ...client.learner.models.base_model import load_base, load_tokenizer
from ...client.learner.models.chat_template import adopt_turn_end
from ...client.learner.models.model_files import file_hash, model_folder
from ...common.adapter.adapter import Adapter
from ...common.errors import ConfigError, RunError
from .probes import OutputDifference, difference, logits, texts, token_ids
from .source import Source

CPU = torch.device("cpu")
EXACT = 1e-3
"""Largest difference of a logit if everything is float32."""
ROUNDED = {"float16": 0.02, "bfloat16": 0.15}
"""Largest difference of a logit with rounded weights, relative to the largest logit: 2^-11 and 2^-8 per weight."""
TOKENIZER = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)


@dataclass(slots=True)
class Merged:
    """A base model with the adapter in its weights (float32)."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    folder: Path
    """The base model's folder."""
    prompts: list[list[int]]
    answers: torch.Tensor
    """Logits of the merged model on the probes."""
    difference: OutputDifference
    """Difference from base model and adapter, as PEFT computes them."""


def merge(source: Source, model: str, say: Callable[[str], None]) -> Merged:
    """Load the base model, and merge the adapter into it.

    Args:
        model: folder or Hub name of the base model; empty uses the run's.

    Raises:
        ConfigError: the base model is not available, differs from the clients', or the adapter does not fit it.
        RunError: the merged model's logits differ from those of base model and adapter.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    kept_at = source.config.backend.source if source.config else "hub"
    folder = model_folder(model or source.base.name, "" if model else source.base.revision, kept_at)
    if source.base_sha256 and file_hash(folder) != source.base_sha256:
        raise ConfigError(
            f"{folder} is not the base model of this run: its files have another hash than the clients agreed on. Name "
            "the right one with --model."
        )
    say(f"loading the base model {source.base.public}")
    base, tokenizer = load_base(folder, "float32", CPU), load_tokenizer(folder)
    adopt_turn_end(base, tokenizer)
    prompts = token_ids(tokenizer, texts(tokenizer))
    adapted = attach(base, source.adapter)
    expected = logits(adapted.model, prompts)  # pyright: ignore[reportArgumentType]
    plain = adapted.release()
    del adapted
    say("merging, and comparing the merged model with base model and adapter")
    _add(plain, source.adapter)
    answers = logits(plain, prompts)
    change = difference(expected, answers)
    if not change.logits <= max(EXACT, EXACT * float(expected.abs().max())):
        raise RunError(f"The merged model differs from base model and adapter: {change}.")
    return Merged(plain, tokenizer, folder, prompts, answers, change)


def _add(model: PreTrainedModel, adapter: Adapter) -> None:
    with torch.no_grad():
        for module in adapter.schema.modules:
            weight = model.get_submodule(module.name).weight
            assert isinstance(weight, torch.Tensor)
            weight.copy_(weight.double() + torch.from_numpy(adapter.change(module)))


def write_merged(merged: Merged, folder: Path, dtype: str, say: Callable[[str], None]) -> OutputDifference:
    """Write the merged model with its tokenizer, load it from there, and compare. Frees `merged.model`.

    Returns:
        The difference that rounding to `dtype` makes to the merged model in float32.

    Raises:
        RunError: the difference is larger than rounding explains.
    """
    say(f"writing the merged model as {dtype}")
    merged.model.to(getattr(torch, dtype)).save_pretrained(folder)  # pyright: ignore[reportArgumentType]
    del merged.model
    gc.collect()
    copy_tokenizer(merged.folder, folder)
    written = load_tokenizer(folder)
    if token_ids(written, texts(written)) != merged.prompts:
        raise RunError("The written tokenizer splits text differently from the base model's.")
    say("loading it from there")
    change = difference(merged.answers, logits(load_base(folder, "float32", CPU), merged.prompts))
    if not (change.logits <= EXACT if dtype == "float32" else change.relative <= ROUNDED[dtype]):
        raise RunError(f"The model as {dtype} differs from the merged one by more than rounding explains: {change}.")
    return change


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy the tokenizer's files unchanged, except for the path that it was once loaded from."""
    for name in TOKENIZER:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    path = folder / "tokenizer_config.json"
    if path.is_file():
        settings = json.loads(path.read_text(encoding="utf-8"))
        if settings.pop("name_or_path", None) is not None:
            path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
