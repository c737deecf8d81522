"""A GGUF file read back through transformers and compared with what was written: settings, tokens, logits.

Transformers does not read all of a file: that a Llama has biases, and any scaling of rope. What it leaves out is taken
from the model and compared with the file here, so that nothing passes unseen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from ...common.errors import RunError
from .gguf_file import rope_factors
from .probes import Difference, difference, logits, texts, token_ids

SETTINGS = (
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
    "tie_word_embeddings",
)
FLOAT32_DIGITS = 1e-6


def check_tokens(path: Path, tokenizer: PreTrainedTokenizerBase) -> int:
    """Compare how the file's tokenizer cuts the probes; returns how many tokens they are.

    Raises:
        RunError: it cuts one otherwise.
    """
    stored = PreTrainedTokenizerFast.from_pretrained(path.parent, gguf_file=path.name)
    wanted = texts(tokenizer)
    pairs = list(zip(wanted, token_ids(tokenizer, wanted), token_ids(stored, wanted), strict=True))
    for text, own, read in pairs:
        if own != read:
            at = next((i for i, pair in enumerate(zip(own, read, strict=False)) if pair[0] != pair[1]), 0)
            raise RunError(
                f"The tokenizer in the GGUF file cuts {text[:40]!r}... otherwise: {own[at : at + 5]} became "
                f"{read[at : at + 5]}. Use --to merged and llama.cpp's own converter."
            )
    return sum(len(own) for _, own, _ in pairs)


def check_logits(path: Path, config: Any, prompts: list[list[int]], answers: torch.Tensor) -> Difference:
    """Load the file and compare its logits with the model's.

    Args:
        config: the model's, as it was written.
        answers: the model's logits on `prompts`.

    Raises:
        RunError: the file says something else of the model, or lacks a tensor.
    """
    read = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    for name in SETTINGS:
        own, found = getattr(config, name), getattr(read, name)
        if own != found and not (isinstance(own, float) and abs(own - found) <= FLOAT32_DIGITS * abs(own)):
            raise RunError(f"The GGUF file says {name} is {found}, but it is {own}.")
    _check_rope(path, config)
    return difference(answers, logits(_load(path, config, read), prompts))


def _load(path: Path, config: Any, read: Any) -> PreTrainedModel:
    read.rope_parameters = {**config.rope_parameters, "rope_theta": read.rope_parameters["rope_theta"]}
    for name in ("attention_bias", "mlp_bias", "head_dim"):
        if hasattr(config, name):
            setattr(read, name, getattr(config, name))
    found: Any = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, config=read, dtype=torch.float32, output_loading_info=True
    )
    model, report = found
    if report["missing_keys"]:
        raise RunError(f"The GGUF file lacks {', '.join(sorted(report['missing_keys']))}.")
    return model


def _check_rope(path: Path, config: Any) -> None:
    import gguf

    reader = gguf.GGUFReader(path)
    rope = config.rope_parameters
    wanted = {"rope.freq_base": rope["rope_theta"]}
    if rope["rope_type"] in ("linear", "yarn"):
        wanted |= {"rope.scaling.type": rope["rope_type"], "rope.scaling.factor": rope["factor"]}
    architecture = reader.fields["general.architecture"].contents()
    for name, value in wanted.items():
        field = reader.fields.get(f"{architecture}.{name}")
        found = field.contents() if field else None
        if found != value and not (isinstance(found, float) and abs(found - value) <= FLOAT32_DIGITS * abs(value)):
            raise RunError(f"The GGUF file says {name} is {found}, but it is {value}.")
    factors = rope_factors(config)
    stored = [tensor.data for tensor in reader.tensors if tensor.name == "rope_freqs.weight"]
    if factors is not None and (not stored or not np.array_equal(stored[0].reshape(-1), factors)):
        raise RunError("The GGUF file's factors on the frequencies of rope are not the model's.")
