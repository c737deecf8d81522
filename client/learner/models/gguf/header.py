"""The metadata of a GGUF file, and the config.json that follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .....common.errors import ConfigError

CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}
WITHOUT_GGUF = (
    "Reading a GGUF file needs the package gguf, which is not installed here. Install the extra: "
    "pip install 'fedgrpo[models]'."
)
LLAMA3_ROPE = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
"""The constants of Llama 3.1 to 3.3."""


@dataclass(frozen=True, slots=True)
class GGUF:
    """An open GGUF file: its metadata by key, and its tensors by name, which are read when they are asked for."""

    path: Path
    fields: Mapping[str, Any]
    tensors: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> GGUF:
        """Open a file.

        Raises:
            ConfigError: gguf is not installed, or the file is not a whole GGUF file.
        """
        try:
            from gguf import GGUFReader
        except ImportError as error:
            raise ConfigError(WITHOUT_GGUF) from error
        try:
            reader = GGUFReader(path)
            fields = {name: field.contents() for name, field in reader.fields.items()}
        except (OSError, ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
            raise damaged(path, error) from error
        return cls(path, fields, {tensor.name: tensor for tensor in reader.tensors})

    @property
    def architecture(self) -> str:
        """Name of the architecture, `llama` or `qwen2`.

        Raises:
            ConfigError: it is another one.
        """
        name = self.fields.get("general.architecture")
        if name not in CLASSES:
            raise ConfigError(
                f"{self.path} holds a model of the architecture {name}. Supported are {' and '.join(CLASSES)}. Use the "
                "model's folder from the Hub instead."
            )
        return str(name)

    def number(self, key: str, otherwise: float | None = None) -> Any:
        """Return a number of the architecture's metadata.

        Raises:
            ConfigError: it is missing, or not a number above 0.
        """
        value = self.fields.get(f"{self.architecture}.{key}", otherwise)
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise ConfigError(f"{self.path}: {self.architecture}.{key} is {value!r}, not a number above 0.")
        return value


def damaged(path: Path, error: object) -> ConfigError:
    """Return the refusal of a file that cannot be read as GGUF."""
    return ConfigError(f"{path} is not a whole GGUF file: {error}. Get it again, and compare its SHA-256.")


def config_of(file: GGUF) -> dict[str, Any]:
    """Return the model's config.json, without its dtype.

    Raises:
        ConfigError: the architecture is not supported, a number is missing, or rope is scaled in an unknown way.
    """
    kind, tokens = file.architecture, file.fields.get("tokenizer.ggml.tokens", [])
    embedding = file.tensors.get("token_embd.weight")
    heads, hidden = file.number("attention.head_count"), file.number("embedding_length")
    config = {
        "architectures": [CLASSES[kind]],
        "model_type": kind,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": file.number("feed_forward_length"),
        "num_hidden_layers": file.number("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": file.number("attention.head_count_kv", heads),
        "max_position_embeddings": file.number("context_length"),
        "rms_norm_eps": _shortest(file.number("attention.layer_norm_rms_epsilon")),
        "rope_parameters": rope_of(file),
        "vocab_size": int(embedding.shape[1]) if embedding is not None else len(tokens),
        "tie_word_embeddings": "output.weight" not in file.tensors,
    }
    width = int(file.number("attention.key_length", file.number("rope.dimension_count", hidden // heads)))
    if kind == "llama":
        config |= {
            "head_dim": width,
            "attention_bias": "blk.0.attn_q.bias" in file.tensors,
            "mlp_bias": "blk.0.ffn_gate.bias" in file.tensors,
        }
    elif width != hidden // heads:
        raise ConfigError(f"{file.path}: a head of this Qwen2 is {width} wide, but transformers' is {hidden // heads}.")
    special = {key: file.fields.get(f"tokenizer.ggml.{key}_token_id") for key in ("bos", "eos", "padding")}
    names = {"bos": "bos_token_id", "eos": "eos_token_id", "padding": "pad_token_id"}
    return config | {names[key]: number for key, number in special.items() if number is not None}


def rope_of(file: GGUF) -> dict[str, Any]:
    """Return transformers' parameters of the rotary embedding.

    Raises:
        ConfigError: the file scales it in a way that cannot be told from the file.
    """
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": _shortest(file.number("rope.freq_base", 10_000.0))}
    kind = file.fields.get(f"{file.architecture}.rope.scaling.type", "none")
    if "rope_freqs.weight" in file.tensors:
        return _llama3(file, rope)
    if kind == "none":
        return rope
    if kind not in ("linear", "yarn"):
        raise ConfigError(f"{file.path} scales rope by {kind}. Supported are linear, yarn and Llama 3's.")
    rope |= {"rope_type": kind, "factor": _shortest(file.number("rope.scaling.factor"))}
    if kind == "yarn":
        rope["original_max_position_embeddings"] = file.number("rope.scaling.original_context_length")
    return rope


def _llama3(file: GGUF, rope: dict[str, Any]) -> dict[str, Any]:
    """Return Llama 3's scaling. A file keeps only its divisors, from which factor and first context length follow."""
    stored = np.asarray(file.tensors["rope_freqs.weight"].data, np.float32).reshape(-1).astype(np.float64)
    factor, width = float(stored.max(initial=1.0)), 2 * stored.size
    scaled = rope | {"rope_type": "llama3", "factor": _shortest(factor)} | LLAMA3_ROPE
    scaled["original_max_position_embeddings"] = _first_context(stored, factor, rope["rope_theta"])
    if factor <= 1 or not np.allclose(stored, rope_divisors(scaled, width), rtol=1e-5):
        raise ConfigError(
            f"{file.path} divides the frequencies of rope by other numbers than Llama 3.1 to 3.3 do, and transformers' "
            "settings cannot be told from them. Use the model's folder from the Hub instead."
        )
    return scaled


def _first_context(stored: np.ndarray, factor: float, theta: float) -> int:
    """Solve `rope_divisors` for the context length: at a divisor between 1 and the factor, else behind the last 1."""
    wavelengths = 2 * np.pi * theta ** (np.arange(stored.size) / stored.size)
    between = np.flatnonzero((stored > 1.001) & (stored < 0.999 * factor))
    if not between.size:
        return int(np.ceil(4 * wavelengths[max(0, np.count_nonzero(stored <= 1.001) - 1)]))
    first = between[0]
    smooth = (1 / stored[first] - 1 / factor) / (1 - 1 / factor)
    return round(float((1 + 3 * smooth) * wavelengths[first]))


def rope_divisors(rope: Mapping[str, Any], width: int) -> np.ndarray:
    """Return llama.cpp's divisors of the frequencies for Llama 3's rope: float32 (width / 2,), width of a head."""
    turns = rope["original_max_position_embeddings"] / (
        2 * np.pi * rope["rope_theta"] ** (np.arange(0, width, 2) / width)
    )
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1.0 / ((1.0 - smooth) / rope["factor"] + smooth)).astype(np.float32)


def _shortest(value: float) -> float:
    """Return the shortest decimal that is this float32: a file holds 1e-5 as 9.999999747378752e-06."""
    return float(str(np.float32(value)))
