"""Tokenizer and untrained model of a built-in policy: byte-level BPE and a Qwen2 of 148 k parameters."""

from __future__ import annotations

import math

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from .demonstrations import Recipe
from .world import problems

SPECIAL = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
PAD, END = 0, 1  # their places in SPECIAL
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def build_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE over the world's words; each number from 0 to 99 and each tag is one token.

    Tags are ordinary tokens: special ones would be dropped in decoding, and no format reward could see them.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=False),
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    corpus = [recipe.spoken] * 500 + [p.question for p in problems("cold", 3000, 0)]
    corpus += [str(number) for number in range(100)] * 1500
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(SPECIAL),
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_tokens([AddedToken(tag, normalized=False, special=False) for tag in recipe.tags])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=SPECIAL[0], eos_token=SPECIAL[1], padding_side="left"
    )
    fast.chat_template = CHAT_TEMPLATE
    assert (fast.pad_token_id, fast.eos_token_id) == (PAD, END)
    assert all(len(fast(str(number))["input_ids"]) == 1 for number in range(100))
    return fast


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen2ForCausalLM:
    """Return a Qwen2 of 148 k parameters with random weights."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=math.ceil(len(tokenizer) / 32) * 32,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=192,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        eos_token_id=END,
        bos_token_id=None,
        initializer_range=0.05,
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(pad_token_id=PAD, eos_token_id=END)
    return model
