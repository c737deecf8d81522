"""The parts of a tokenizer that GGUF can hold, and a check that llama.cpp would split text in the same way.

A GGUF file has tokens and merges, but only the *name* of the rule that first splits text into words. So the tokenizer's
rule must be one that llama.cpp knows by name; a tokenizer with another rule is refused, not approximated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerFast
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from ...client.learner.models.chat_template import as_published
from ...client.learner.models.gguf import tokens
from ...client.learner.models.gguf.tokens import CONTROL, USER_DEFINED
from ...common.errors import ConfigError

NORMAL, UNUSED = 1, 5
SPLITS = {pattern: name for name, pattern in tokens.SPLITS.items()}
"""llama.cpp's names of the rules of Qwen2 and Llama 3, by the pattern in their tokenizer.json."""
LINES_AND_NUMBERS = [
    {"type": "Digits", "individual_digits": False},
    {"type": "Split", "pattern": {"String": "\n"}, "behavior": "Isolated", "invert": False},
]
"""How the built-in policies split text before GPT-2's rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """A byte-level BPE tokenizer in GGUF's form."""

    rule: str
    """llama.cpp's name of the rule that splits text into words."""
    tokens: list[str]
    types: list[int]
    merges: list[str]
    special: Mapping[str, int]
    """Token ids: bos, eos, pad, unk."""
    add_bos: bool
    add_eos: bool
    chat_template: str | None
    warnings: list[str]


def vocabulary(tokenizer: PreTrainedTokenizerBase, size: int) -> Vocabulary:
    """Convert a tokenizer to GGUF's form.

    Args:
        size: rows of the model's embedding; ids without a token become unused tokens.

    Raises:
        ConfigError: GGUF cannot hold this tokenizer.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ConfigError(_refusal("it has no tokenizer.json"))
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    model, added = described["model"], {token["id"]: token for token in described["added_tokens"]}
    if model["type"] != "BPE" or model.get("byte_fallback"):
        raise ConfigError(_refusal("it is a SentencePiece or Unigram one"))
    rule, warnings = _rule(described), []
    if described["normalizer"] is not None:
        warnings.append("llama.cpp does not normalise text to NFC as this tokenizer does: send it composed accents.")
    by_id = {number: token for token, number in tokenizer.get_vocab().items()}
    if max(by_id) >= size:
        raise ConfigError(f"The tokenizer has {max(by_id) + 1} tokens, but the model only has {size}.")
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    ids = list(tokenizer("a")["input_ids"])  # pyright: ignore[reportArgumentType]
    return Vocabulary(
        rule=rule,
        tokens=[by_id.get(number, f"[PAD{number}]") for number in range(size)],
        types=[_type(added.get(number), number in by_id) for number in range(size)],
        merges=[merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]],
        special=_special(tokenizer),
        add_bos=bos is not None and ids[:1] == [bos],
        add_eos=eos is not None and ids[-1:] == [eos],
        chat_template=as_published(tokenizer.chat_template) if isinstance(tokenizer.chat_template, str) else None,
        warnings=warnings,
    )


def _special(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return the ids of the special tokens. Without a bos, llama.cpp would use token 11 as one, whatever that is."""
    ids: dict[str, Any] = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad", "unk")}
    if ids["bos"] is None:
        ids["bos"] = ids["eos"]
    return {name: number for name, number in ids.items() if number is not None}


def _type(added: dict[str, Any] | None, known: bool) -> int:
    if not known:
        return UNUSED
    if added is None:
        return NORMAL
    return CONTROL if added["special"] else USER_DEFINED


def _rule(described: dict[str, Any]) -> str:
    """Return llama.cpp's name of the rule by which a tokenizer splits text into words."""
    if described["normalizer"] not in (None, {"type": "NFC"}):
        raise ConfigError(_refusal("it normalises text in an unsupported way"))
    cutter = described["pre_tokenizer"] or {}
    steps = cutter.get("pretokenizers", [cutter])
    *first, last = steps
    if last.get("type") == "ByteLevel" and not last.get("add_prefix_space"):
        patterns = [step.get("pattern", {}).get("Regex") for step in first]
        if len(patterns) == 1 and patterns[0] in SPLITS and not last["use_regex"]:
            return SPLITS[patterns[0]]
        if last["use_regex"] and first == [tokens.DIGITS]:
            return "smollm"
        if last["use_regex"] and (not first or (first == LINES_AND_NUMBERS and _words_stay_whole(described))):
            return "gpt-2"
    raise ConfigError(_refusal("its rule for cutting text into words is one that GGUF has no name for"))


def _words_stay_whole(described: dict[str, Any]) -> bool:
    """Whether GPT-2's rule alone gives the same tokens: no token reaches over a place where only one of the two cuts.

    The built-in policies' rule cuts numbers and line ends off first. GPT-2's rule cuts around runs of digits anyway,
    but may keep a blank before one, and cuts runs of blanks otherwise. Merges would have to bridge those places: there
    must be no token of a digit and something else, and none of two blanks.
    """
    blanks = "\u0120\u010a\u0109\u010d"  # how byte-level BPE writes space, line feed, tab, carriage return
    fixed = {token["content"] for token in described["added_tokens"]}
    words = [word for word in described["model"]["vocab"] if word not in fixed]
    mixed = any(any(c.isdigit() for c in word) and not word.isdigit() for word in words)
    return not mixed and not any(sum(c in blanks for c in word) > 1 for word in words)


def _refusal(why: str) -> str:
    return (
        f"GGUF export does not support this model's tokenizer: {why}. Supported are byte-level BPE tokenizers that "
        "split text as Qwen2, Llama 3, SmolLM or GPT-2 do. Use --to merged and llama.cpp's own converter."
    )
