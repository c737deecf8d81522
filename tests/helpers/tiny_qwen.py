"""A Qwen2 of a few thousand random weights, with a real Qwen2Tokenizer over bytes and Qwen2.5's own chat template."""

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer
from trl.chat_template_utils import qwen2_5_chat_template

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def tokenizer(words=(), template=qwen2_5_chat_template):
    """One token per byte, and one for each of `words`, which are plain text to a decoder."""
    vocabulary = {piece: number for number, piece in enumerate(sorted(ByteLevel.alphabet()))}
    made = Qwen2Tokenizer(
        vocab=vocabulary,
        merges=[],
        unk_token=SPECIAL[0],
        pad_token=SPECIAL[0],
        eos_token=SPECIAL[2],
        extra_special_tokens=[SPECIAL[1]],
        chat_template=template,
        padding_side="left",
    )
    made.add_tokens(list(words))
    return made


def make(folder, *, words=(), hidden=32, layers=2, spread=0.02, seed=0):
    """Write a model folder.

    Args:
        spread: standard deviation of the weights. At the usual .02 all tokens are about equally likely.
    """
    tokens = tokenizer(words)
    config = Qwen2Config(
        vocab_size=len(tokens),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        initializer_range=spread,
        bos_token_id=None,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=tokens.eos_token_id, pad_token_id=tokens.pad_token_id)
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder
