"""The tokenizer of a GGUF file, as the files of a model folder.

A GGUF file has tokens and merges, but only the *name* of the rule that first splits text into words: the rules that are
known by name are below, and `simulations.export` writes them by the same table.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .....common.errors import ConfigError
from .header import GGUF

CONTROL, USER_DEFINED = 3, 4
"""Types of tokens: those that mark turns, and those that are never split but are text."""
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|NUMBER| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = {"qwen2": WORDS.replace("NUMBER", r"\p{N}"), "llama-bpe": WORDS.replace("NUMBER", r"\p{N}{1,3}")}
"""The rules of Qwen2 and Llama 3 by llama.cpp's name, as their tokenizer.json has them."""
DIGITS = {"type": "Digits", "individual_digits": True}
"""What SmolLM does before GPT-2's rule: each digit is a word."""
RULES = {"gpt-2": None, "smollm": DIGITS, **SPLITS}


def write_tokenizer(file: GGUF, folder: Path) -> None:
    """Write a file's tokenizer and chat template: tokenizer.json, tokenizer_config.json, chat_template.jinja.

    Raises:
        ConfigError: the tokenizer is not a byte-level BPE, its rule has an unknown name, or the file has no chat
            template.
    """
    kind, rule = file.fields.get("tokenizer.ggml.model"), file.fields.get("tokenizer.ggml.pre")
    if kind != "gpt2" or rule not in RULES:
        raise ConfigError(
            f"The tokenizer in {file.path} is of the kind {kind}, {rule}. Supported are byte-level BPE tokenizers "
            f"(gpt2) that split text as {', '.join(RULES)}. Use the model's folder from the Hub instead."
        )
    template = file.fields.get("tokenizer.chat_template")
    if not template:
        raise ConfigError(
            f"{file.path} has no chat template, which is needed to build prompts. Use an instruct model's file."
        )
    backend_of(file).save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(str(template), encoding="utf-8")
    tokens = file.fields["tokenizer.ggml.tokens"]
    names = {"bos": "bos_token", "eos": "eos_token", "padding": "pad_token", "unknown": "unk_token"}
    numbers = {name: file.fields.get(f"tokenizer.ggml.{key}_token_id") for key, name in names.items()}
    described = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": file.number("context_length"),
        **{name: tokens[number] for name, number in numbers.items() if number is not None},
    }
    write_json(folder / "tokenizer_config.json", described)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a file of settings, the same on every machine."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def backend_of(file: GGUF) -> Any:
    """Return a file's tokenizer, of `tokenizers`; the rule must be one of RULES."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers, processors
    from tokenizers.models import BPE

    rule = str(file.fields["tokenizer.ggml.pre"])
    tokens, types = file.fields["tokenizer.ggml.tokens"], file.fields.get("tokenizer.ggml.token_type", [])
    merges = [tuple(merge.split(" ", 1)) for merge in file.fields.get("tokenizer.ggml.merges", [])]
    backend = Tokenizer(BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=merges))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=rule not in SPLITS)
    if rule in SPLITS:
        first: Any = [pre_tokenizers.Split(Regex(SPLITS[rule]), "isolated", invert=False)]
    else:
        first = [pre_tokenizers.Digits(individual_digits=True)] if rule == "smollm" else []
    backend.pre_tokenizer = pre_tokenizers.Sequence([*first, byte_level]) if first else byte_level
    backend.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, types, strict=False) if kind == CONTROL]
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    defined = [token for token, kind in zip(tokens, types, strict=False) if kind == USER_DEFINED]
    backend.add_tokens([AddedToken(token, special=False, normalized=False) for token in defined])
    bos = file.fields.get("tokenizer.ggml.bos_token_id")
    if file.fields.get("tokenizer.ggml.add_bos_token") and bos is not None:
        start = f"{tokens[bos]}:0"
        backend.post_processor = processors.TemplateProcessing(
            single=f"{start} $A:0", pair=f"{start} $A:0 {tokens[bos]}:1 $B:1", special_tokens=[(tokens[bos], bos)]
        )
    return backend
