"""The weights of a GGUF file as safetensors: numbers, names and the order of rows as transformers has them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .....common.errors import ConfigError
from .header import GGUF, config_of, damaged
from .tokens import write_json, write_tokenizer

Tensor = npt.NDArray[np.float32]
WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LAYER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    **{f"attn_{ours}": f"self_attn.{theirs}_proj" for ours, theirs in (("q", "q"), ("k", "k"), ("v", "v"))},
    "attn_output": "self_attn.o_proj",
    **{f"ffn_{part}": f"mlp.{part}_proj" for part in ("gate", "up", "down")},
}
NOT_WEIGHTS = ("rope_freqs.weight",)
EXACT = ("F32", "F16")
"""Types of a file whose weights float32 keeps exactly, and bfloat16 does not."""


def write_folder(path: Path, folder: Path) -> str:
    """Write a GGUF file's model into an empty folder, and return the type of its weights.

    Quantized and bfloat16 files become bfloat16: a weight of Q4_1 is one of 16 values of its block, about 7 % of the
    block's range apart, and bfloat16 moves it by at most 0.4 % of itself. float32 and float16 files become float32, so
    that nothing is lost.

    Raises:
        ConfigError: the file is damaged, or its architecture or tokenizer is not supported.
    """
    import torch
    from safetensors.torch import save_file

    file = GGUF.read(path)
    config, kinds = config_of(file), {tensor.tensor_type.name for tensor in file.tensors.values() if tensor.n_elements}
    matrices = {tensor.tensor_type.name for tensor in file.tensors.values() if len(tensor.shape) > 1}
    dtype = "float32" if (matrices or kinds) <= set(EXACT) else "bfloat16"
    write_tokenizer(file, folder)
    shapes = _shapes(config)
    weights = {name: torch.from_numpy(values).to(getattr(torch, dtype)) for name, values in _tensors(file, config)}
    wrong = sorted(name for name in shapes.keys() | weights.keys() if shapes.get(name) != _shape(weights.get(name)))
    if wrong:
        raise damaged(path, f"{wrong[0]} has the shape {_shape(weights.get(wrong[0]))}, not {shapes.get(wrong[0])}")
    save_file(dict(sorted(weights.items())), folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", config | {"dtype": dtype})
    ends = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if key in config}
    write_json(folder / "generation_config.json", ends)
    return dtype


def _shape(weight: Any) -> tuple[int, ...] | None:
    return None if weight is None else tuple(weight.shape)


def _tensors(file: GGUF, config: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Yield transformers' name and the values of every tensor.

    Raises:
        ConfigError: the file holds a tensor that its architecture does not have, or a value that is not finite.
    """
    from gguf import dequantize

    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name, tensor in file.tensors.items():
        if name in NOT_WEIGHTS:
            continue
        ours = _name(name)
        if ours is None:
            raise ConfigError(f"{file.path} holds the tensor {name}, which a {file.architecture} does not have.")
        try:
            values = np.array(dequantize(tensor.data, tensor.tensor_type), np.float32)
        except (NotImplementedError, ValueError) as error:
            raise ConfigError(f"{file.path}: {name} is of the type {tensor.tensor_type.name}: {error}") from error
        if not np.isfinite(values).all():
            raise damaged(file.path, f"{name} holds numbers that are not finite")
        module = ours.split(".")[-2]
        yield ours, _halves(values, heads[module]) if config["model_type"] == "llama" and module in heads else values


def _name(name: str) -> str | None:
    """Return transformers' name of a tensor; None if neither architecture has it."""
    stem, _, suffix = name.rpartition(".")
    if suffix not in ("weight", "bias"):
        return None
    if stem in WHOLE:
        return f"{WHOLE[stem]}.{suffix}"
    prefix, _, rest = stem.partition(".")
    number, _, part = rest.partition(".")
    known = prefix == "blk" and number.isdecimal() and part in LAYER
    return f"model.layers.{number}.{LAYER[part]}.{suffix}" if known else None


def _halves(values: Tensor, heads: int) -> Tensor:
    """Return the rows of q or k in transformers' order, which rotates halves; llama.cpp rotates neighbours."""
    rows = values.reshape(heads, values.shape[0] // heads // 2, 2, *values.shape[1:])
    return np.ascontiguousarray(rows.swapaxes(1, 2)).reshape(values.shape)


def _shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor that transformers looks for; it would draw a missing one at random."""
    hidden, middle = config["hidden_size"], config["intermediate_size"]
    width = config.get("head_dim", hidden // config["num_attention_heads"])
    q, kv = config["num_attention_heads"] * width, config["num_key_value_heads"] * width
    linear = {"q": (q, hidden), "k": (kv, hidden), "v": (kv, hidden), "o": (hidden, q)}
    mlp = {"gate": (middle, hidden), "up": (middle, hidden), "down": (hidden, middle)}
    biased = "" if config["model_type"] == "llama" else "qkv"
    biased = "qkvo" if config.get("attention_bias") else biased
    shapes: dict[str, tuple[int, ...]] = {"model.norm.weight": (hidden,)}
    shapes["model.embed_tokens.weight"] = (config["vocab_size"], hidden)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    for number in range(config["num_hidden_layers"]):
        layer = f"model.layers.{number}"
        shapes |= {f"{layer}.{norm}.weight": (hidden,) for norm in ("input_layernorm", "post_attention_layernorm")}
        shapes |= {f"{layer}.self_attn.{part}_proj.weight": shape for part, shape in linear.items()}
        shapes |= {f"{layer}.self_attn.{part}_proj.bias": linear[part][:1] for part in biased}
        shapes |= {f"{layer}.mlp.{part}_proj.weight": shape for part, shape in mlp.items()}
        shapes |= {f"{layer}.mlp.{part}_proj.bias": mlp[part][:1] for part in mlp if config.get("mlp_bias")}
    return shapes
