"""A merged model as a GGUF file for llama.cpp and compatible programs: Qwen2 and Llama families.

Tensors are written one at a time. GGUF's names, and its order of the rows of q and k, follow llama.cpp's own converter
(conversion/llama.py and conversion/base.py there).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedModel

from ...client.learner.models.gguf.header import rope_divisors
from ...common.errors import ConfigError, RunError
from .gguf_vocabulary import Vocabulary

ARCHITECTURES = {"Qwen2ForCausalLM": "qwen2", "LlamaForCausalLM": "llama"}
ROPE_TYPES = ("default", "linear", "llama3", "yarn")
HALF_MAX = float(np.finfo(np.float16).max)
Tensor = npt.NDArray[np.float32] | npt.NDArray[np.float16]


def check_architecture(config: Any) -> str:
    """Return GGUF's name of the architecture.

    Raises:
        ConfigError: it is not supported, or has a part that GGUF cannot represent.
    """
    name = (config.architectures or ["none"])[0]
    if name not in ARCHITECTURES:
        raise ConfigError(f"GGUF export does not support {name}. Supported are {' and '.join(ARCHITECTURES)}.")
    if config.hidden_act != "silu":
        raise ConfigError(
            f"GGUF's {ARCHITECTURES[name]} has the activation silu, but this model has {config.hidden_act}."
        )
    if getattr(config, "use_sliding_window", False):
        raise ConfigError("GGUF's qwen2 does not support a sliding window, but this model uses one.")
    if config.rope_parameters["rope_type"] not in ROPE_TYPES:
        kind = config.rope_parameters["rope_type"]
        raise ConfigError(
            f"GGUF export does not support rope of the type {kind}. Supported are {', '.join(ROPE_TYPES)}."
        )
    return ARCHITECTURES[name]


def write_gguf(model: PreTrainedModel, words: Vocabulary, path: Path, *, name: str, half: bool) -> None:
    """Write a model as one GGUF file.

    Args:
        name: name of the model in the file.
        half: write matrices as float16 and vectors as float32; otherwise everything is float32.

    Raises:
        ConfigError: the architecture is not supported.
        RunError: a weight is too large for float16.
    """
    import gguf

    config: Any = model.config
    architecture = check_architecture(config)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if half else gguf.LlamaFileType.ALL_F32)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_shapes(writer, config)
    _add_rope(writer, config.rope_parameters)
    _add_words(writer, words)
    for tensor, values in _tensors(model, architecture, half):
        writer.add_tensor_info(tensor, values.shape, values.dtype, values.nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, values in _tensors(model, architecture, half):
        writer.write_tensor_data(values)
    writer.close()


def head_dim(config: Any) -> int:
    """Return the width of an attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def rope_factors(config: Any) -> npt.NDArray[np.float32] | None:
    """Return llama.cpp's divisors of the rotation frequencies, float32 (head_dim / 2,); None if not Llama 3's rope."""
    rope = config.rope_parameters
    if rope["rope_type"] != "llama3":
        return None
    return rope_divisors(rope, head_dim(config))


def _add_shapes(writer: Any, config: Any) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim(config))
    writer.add_value_length(head_dim(config))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _add_rope(writer: Any, rope: dict[str, Any]) -> None:
    from gguf import RopeScalingType

    writer.add_rope_freq_base(rope["rope_theta"])
    kind = rope["rope_type"]
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(RopeScalingType(kind))
        writer.add_rope_scaling_factor(rope["factor"])
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])


def _add_words(writer: Any, words: Vocabulary) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(words.rule)
    writer.add_token_list(words.tokens)
    writer.add_token_types(words.types)
    writer.add_token_merges(words.merges)
    for name, number in words.special.items():
        getattr(writer, f"add_{name}_token_id")(number)
    writer.add_add_bos_token(words.add_bos)
    writer.add_add_eos_token(words.add_eos)
    if words.chat_template:
        writer.add_chat_template(words.chat_template)


def _tensors(model: PreTrainedModel, architecture: str, half: bool) -> Iterator[tuple[str, Tensor]]:
    """Yield GGUF's name and the values of every tensor, one after another."""
    import gguf

    config: Any = model.config
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    for source, weight in model.state_dict().items():
        if source == "lm_head.weight" and config.tie_word_embeddings:
            continue
        name = names.get_name(source, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ConfigError(f"GGUF has no name for the tensor {source} in an architecture {architecture}.")
        values = weight.detach().float().numpy()
        if architecture == "llama" and ".self_attn.q_proj." in source:
            values = _interleaved(values, config.num_attention_heads)
        if architecture == "llama" and ".self_attn.k_proj." in source:
            values = _interleaved(values, config.num_key_value_heads)
        yield name, _halved(values, source) if half and values.ndim > 1 else values
    factors = rope_factors(config)
    if factors is not None:
        yield "rope_freqs.weight", factors


def _interleaved(values: npt.NDArray[np.float32], heads: int) -> npt.NDArray[np.float32]:
    """Return the rows of q or k in llama.cpp's order, which rotates neighbours; transformers rotates halves."""
    rows = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return np.ascontiguousarray(rows.swapaxes(1, 2)).reshape(values.shape)


def _halved(values: npt.NDArray[np.float32], name: str) -> npt.NDArray[np.float16]:
    largest = float(np.abs(values).max(initial=0.0))
    if largest > HALF_MAX:
        raise RunError(f"{name} has a weight of {largest:.3g}, more than float16 can hold. Use --type f32.")
    return values.astype(np.float16)
