"""A GGUF file read back through transformers and compared with the model: settings, tokens, logits.

Transformers does not read everything in a file: biases of a Llama, and any scaling of rope. These are taken from the
model and compared with the file here, so that no error goes unnoticed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from ...client.learner.models.gguf.header import GGUF
from ...client.learner.models.gguf.tokens import backend_of
from ...common.errors import RunError
from .gguf_file import rope_factors
from .probes import OutputDifference, difference, logits, texts, token_ids

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
    """Compare how the file's tokenizer splits the probes, and return the number of tokens.

    Raises:
        RunError: it splits one differently.
    """
    stored = _stored_tokenizer(path)
    probes = texts(tokenizer)
    pairs = list(zip(probes, token_ids(tokenizer, probes), token_ids(stored, probes), strict=True))
    for text, expected, read in pairs:
        if expected != read:
            at = next((i for i, pair in enumerate(zip(expected, read, strict=False)) if pair[0] != pair[1]), 0)
            raise RunError(
                f"The tokenizer in the GGUF file splits {text[:40]!r}... differently: {expected[at : at + 5]} became "
                f"{read[at : at + 5]}. Use --to merged and llama.cpp's own converter."
            )
    return sum(len(expected) for _, expected, _ in pairs)


def _stored_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Return the file's tokenizer as transformers reads it, or as we do: transformers takes SmolLM's rule for GPT-2's,
    which splits some digits of other scripts differently."""
    file = GGUF.read(path)
    if file.fields.get("tokenizer.ggml.pre") == "smollm":
        return PreTrainedTokenizerFast(tokenizer_object=backend_of(file))
    return PreTrainedTokenizerFast.from_pretrained(path.parent, gguf_file=path.name)


def check_logits(path: Path, config: Any, prompts: list[list[int]], answers: torch.Tensor) -> OutputDifference:
    """Load the file, and compare its logits with the model's.

    Args:
        config: the model's configuration, as it was written.
        answers: the model's logits on `prompts`.

    Raises:
        RunError: the file's settings differ from the model's, or a tensor is missing.
    """
    read = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    for name in SETTINGS:
        expected, actual = getattr(config, name), getattr(read, name)
        if expected != actual and not _same_float(actual, expected):
            raise RunError(f"In the GGUF file {name} is {actual}, but it must be {expected}.")
    _check_rope(path, config)
    return difference(answers, logits(_load(path, config, read), prompts))


def _load(path: Path, config: Any, read: Any) -> PreTrainedModel:
    read.rope_parameters = {**config.rope_parameters, "rope_theta": read.rope_parameters["rope_theta"]}
    for name in ("attention_bias", "mlp_bias", "head_dim"):
        if hasattr(config, name):
            setattr(read, name, getattr(config, name))
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, config=read, dtype=torch.float32, output_loading_info=True
    )
    model, report = loaded
    if report["missing_keys"]:
        raise RunError(f"The GGUF file lacks {', '.join(sorted(report['missing_keys']))}.")
    return model


def _same_float(one: Any, other: Any) -> bool:
    return isinstance(one, float) and abs(one - other) <= FLOAT32_DIGITS * abs(other)


def _check_rope(path: Path, config: Any) -> None:
    import gguf

    reader = gguf.GGUFReader(path)
    rope = config.rope_parameters
    expected = {"rope.freq_base": rope["rope_theta"]}
    if rope["rope_type"] in ("linear", "yarn"):
        expected |= {"rope.scaling.type": rope["rope_type"], "rope.scaling.factor": rope["factor"]}
    architecture = reader.fields["general.architecture"].contents()
    for name, value in expected.items():
        field = reader.fields.get(f"{architecture}.{name}")
        actual = field.contents() if field else None
        if actual != value and not _same_float(actual, value):
            raise RunError(f"In the GGUF file {name} is {actual}, but it must be {value}.")
    factors = rope_factors(config)
    stored = [tensor.data for tensor in reader.tensors if tensor.name == "rope_freqs.weight"]
    if factors is not None and (not stored or not np.array_equal(stored[0].reshape(-1), factors)):
        raise RunError("The GGUF file's rope frequency factors differ from the model's.")
