"""Tiny models with real tokenizers, and run folders as a server leaves them, without training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from fedgrpo.client.learner.models.adapted_model import adapter_schema
from fedgrpo.client.learner.models.base_model import load_base
from fedgrpo.client.learner.models.model_files import file_hash
from fedgrpo.common.adapter.adapter import Adapter
from fedgrpo.common.messages.messages import Tally
from fedgrpo.common.settings.run_config import RunConfig
from fedgrpo.server.run.journal import Void
from fedgrpo.server.run.metrics import ClientMetrics, EvaluationMetrics, RoundMetrics
from fedgrpo.server.run.store import Store
from fedgrpo.simulations.export.gguf_vocabulary import SPLITS
from fedgrpo.simulations.export.probes import TEXTS
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

CHAT = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN_ROPE = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 128}


def make_tokenizer(rule: str, *, bos: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with merges, which cuts text as Qwen2 or Llama 3 do."""
    pattern = next(p for p, name in SPLITS.items() if name == rule)
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet))
    backend.add_special_tokens(SPECIAL)
    backend.add_tokens([AddedToken("<reasoning>", normalized=False)])
    if bos:
        number = backend.token_to_id(SPECIAL[0])
        backend.post_processor = processors.TemplateProcessing(
            single=f"{SPECIAL[0]} $A", special_tokens=[(SPECIAL[0], number)]
        )
    names = {"eos_token": SPECIAL[2], "pad_token": SPECIAL[0], **({"bos_token": SPECIAL[0]} if bos else {})}
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=CHAT, **names)


def make_base(folder: Path, family: str, **changes: object) -> Path:
    """A tiny random model of the family `qwen2` or `llama`, biases and norms random too, with rows no token has."""
    tokenizer = make_tokenizer("qwen2" if family == "qwen2" else "llama-bpe", bos=family == "llama")
    config_type, model_type = (Qwen2Config, Qwen2ForCausalLM) if family == "qwen2" else (LlamaConfig, LlamaForCausalLM)
    names = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    torch.manual_seed(0)
    model = model_type(config_type(vocab_size=len(tokenizer) + 5, **{**SMALL, **names, **changes}))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("bias"):
                weight.normal_(0.0, 0.2)
            if "norm" in name:
                weight.uniform_(0.5, 1.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def settings(base: str, **changes: object) -> RunConfig:
    """A run's settings on a base model."""
    values = {"model.name": base, "adapter.rank": 4, "adapter.alpha": 8, "federation.rounds": 3}
    return RunConfig().with_values(
        {**values, **{k.replace("__", ".").replace("_", "-"): v for k, v in changes.items()}}
    )


def some_adapter(base: Path, config: RunConfig, seed: int = 1) -> Adapter:
    """A random adapter that changes every layer of the model."""
    schema = adapter_schema(load_base(base, "float32", torch.device("cpu")), config)
    start = Adapter.initial(schema)
    return start.plus(np.random.default_rng(seed).normal(size=schema.size) / 5)


def tally(problems: int, correct: int) -> Tally:
    """Counts of answers, none of which the base model had right."""
    return Tally(problems=problems, correct=correct, lenient=correct, truncated=1, gained=correct)


def make_run(
    folder: Path,
    base: Path,
    config: RunConfig,
    *,
    correct: tuple[int, ...] = (0, 9, 7),
    clients: tuple[str, ...] = ("clinic-a", "clinic-b"),
    voids: int = 0,
) -> list[Adapter]:
    """A run of rounds with these held-out counts of 20, the first of the base model; returns the adapters."""
    adapters = [some_adapter(base, config, seed) for seed in range(len(correct))]
    store = Store(folder)
    state = store.create(config, "fed", adapters[0], file_hash(base))
    for number, (adapter, right) in enumerate(zip(adapters, correct, strict=True)):
        for decoding in ("sampled", "greedy"):
            store.add_metrics(
                EvaluationMetrics(
                    round=number,
                    decoding=decoding,
                    clients=clients,
                    total=tally(20, right),
                    classes={"ward=oncology": tally(20, right)},
                )
            )
        if not number:
            continue
        for attempt in range(voids if number == 1 else 0):
            store.log(Void(round=1, attempt=attempt + 1, reason="x"))
        mine = ClientMetrics(share=0.5, reported={"reward/mean": 0.25 * number, "reward/secret_rule/mean": 1.0})
        metrics = RoundMetrics(
            round=number,
            seconds=1.0,
            bytes_up=1000,
            bytes_down=3000,
            update_norm=1.0,
            clients=dict.fromkeys(clients, mine),
        )
        state = type(state)(
            federation=state.federation, base_model_sha256=state.base_model_sha256, round=number, adapter=adapter
        )
        store.commit(state, metrics, config.model.name)
    return adapters
