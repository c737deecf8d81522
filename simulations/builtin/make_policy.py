"""Make the built-in policy: tokenizer, cold start, and the gate that decides whether it may ship.

    python -m fedgrpo.simulations.builtin.make_policy --out policy                        # two minutes on one core
    python -m fedgrpo.simulations.builtin.make_policy --recipe split --out policy_split   # three

The cold start teaches by correct demonstrations only, mixed in style (`recipes.py`). So the policy can work problems
out and mostly does not; GRPO finds out what pays. Decisive is that most demonstrations put no loss on the token that
begins a style: the policy learns to work well once it has begun, and learns the natural mix for whether to begin.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from ...client.learner.data.answers import style
from ...client.learner.data.judge import is_right
from .demonstrations import RECIPES, Recipe, asked
from .world import RESULT_BELOW, TOPICS, Worked, calculate, problems

SPECIAL = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
PAD, END = 0, 1  # their places in SPECIAL
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
DRILL_SHARE = 0.35
DRILLS_FIRST = 40
BATCH, EXAMPLES = 32, 40_000
IGNORED = -100


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of a prompt and its demonstration; the `silent` tokens of the demonstration carry no loss."""

    prompt: list[int]
    demonstration: list[int]
    silent: slice

    def labels(self) -> list[int]:
        """What to predict at each place, IGNORED where there is no loss."""
        labels = list(self.demonstration)
        labels[self.silent] = [IGNORED] * len(labels[self.silent])
        return [IGNORED] * len(self.prompt) + labels


def build_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the world's words; each number from 0 to 99 and each tag is one token.

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
    """A Qwen2 of 148 k parameters with random weights."""
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


def examples(tokenizer: PreTrainedTokenizerFast, recipe: Recipe, seed: int) -> list[Example]:
    """The word demonstrations of the cold start. All are correct."""
    rng = random.Random(f"style/{seed}")
    data = problems("cold", EXAMPLES, seed)
    shown = [recipe.demonstrate(rng, problem) for problem in data]
    prompts = [f"<|user|>{problem.question}<|end|><|assistant|>" for problem in data]
    texts = [demonstration.text + "<|end|>" for demonstration in shown]
    ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    answers = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return [Example(p, a, d.silent) for p, a, d in zip(ids, answers, shown, strict=True)]


def word_batches(data: list[Example], seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(ids, labels), both of shape (BATCH, length), without end; problems of like length share a batch."""
    rng = random.Random(seed)
    while True:
        shuffled = rng.sample(data, len(data))
        for start in range(0, len(data) - BATCH * 8 + 1, BATCH * 8):
            chunk = sorted(shuffled[start : start + BATCH * 8], key=lambda e: len(e.prompt) + len(e.demonstration))
            batches = [chunk[i : i + BATCH] for i in range(0, len(chunk), BATCH)]
            for batch in rng.sample(batches, len(batches)):
                rows = [e.prompt + e.demonstration for e in batch]
                yield _padded(rows, PAD), _padded([e.labels() for e in batch], IGNORED)


def drill_batches(
    tokenizer: PreTrainedTokenizerFast, recipe: Recipe, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Sheets of single steps, each sheet in one notation, with loss on the results alone."""
    rng, notation = random.Random(f"drill/{seed}"), random.Random(f"notation/{seed}")
    facts = {
        operator: [
            (x, operator, y)
            for x, y in itertools.product(range(2, RESULT_BELOW), range(2, RESULT_BELOW))
            if 0 < calculate(x, operator, y) < RESULT_BELOW and (y <= 15 or x <= 15) and (operator != "*" or y < 10)
        ]
        for operator in "+-*"
    }
    while True:
        rows, labels = [], []
        for _ in range(BATCH):
            how = notation.choice(recipe.styles)
            row: list[int] = []
            label: list[int] = []
            for x, operator, y in (rng.choice(facts[rng.choice("+-*")]) for _ in range(9)):
                question, result = tokenizer([asked(how, x, operator, y), f"{calculate(x, operator, y)}\n"])[
                    "input_ids"
                ]
                row += question + result
                label += [IGNORED] * len(question) + result[:1] + [IGNORED] * (len(result) - 1)
            rows.append(row)
            labels.append(label)
        yield _padded(rows, PAD), _padded(labels, IGNORED)


def train(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, recipe: Recipe, seed: int) -> None:
    """Supervised cold start: Muon on the matrices (Jordan et al. 2024), AdamW on the rest; cosine after a warm-up."""
    torch.manual_seed(seed)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if not (p.ndim == 2 and "embed" not in n)]
    optimizers = [
        torch.optim.Muon(matrices, lr=0.03, weight_decay=0.0, momentum=0.95),
        torch.optim.AdamW(others, lr=7e-3, betas=(0.9, 0.98), weight_decay=0.01),
    ]
    peaks = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    words = word_batches(examples(tokenizer, recipe, seed), seed)
    drills = drill_batches(tokenizer, recipe, seed)
    rng = random.Random(f"mix/{seed}")
    for step in range(recipe.steps):
        ids, labels = next(drills if step < DRILLS_FIRST or rng.random() < DRILL_SHARE else words)
        factor = min(1.0, (step + 1) / 30) * (0.05 + 0.475 * (1 + math.cos(math.pi * step / recipe.steps)))
        for group, peak in zip((g for o in optimizers for g in o.param_groups), peaks, strict=True):
            group["lr"] = peak * factor
        hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
        wanted = labels[:, 1:] != IGNORED
        loss = torch.nn.functional.cross_entropy(model.lm_head(hidden[wanted]), labels[:, 1:][wanted])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}/{recipe.steps}  loss {loss.item():.3f}", flush=True)


@torch.no_grad()
def answers(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, data: list[Worked], opening: str = ""
) -> list[str]:
    """Sampled completions, temperature 1; `opening` is put in the model's mouth."""
    torch.manual_seed(0)
    openings = [opening.format(topic=p.topic) for p in data]
    texts = [f"<|user|>{p.question}<|end|><|assistant|>{o}" for p, o in zip(data, openings, strict=True)]
    inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    output = model.eval().generate(  # pyright: ignore[reportAttributeAccessIssue]
        **{k: inputs[k] for k in ("input_ids", "attention_mask")}, do_sample=True, top_k=0, max_new_tokens=44
    )
    found = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [o + text for o, text in zip(openings, found, strict=True)]


def measure(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> dict[str, float]:
    """Sampled accuracy as it is, and what the recipe's gate asks for, on 500 problems."""
    data = problems("validation", 500, 1)
    free = answers(model, tokenizer, data)
    named = "<{topic}>" if recipe.names_topic else ""
    forced = {how: answers(model, tokenizer, data, f"{named}<{how}>\n") for how in recipe.styles}
    right = {how: [_right(t, p) for t, p in zip(texts, data, strict=True)] for how, texts in forced.items()}
    sampled = _share([_right(t, p) for t, p in zip(free, data, strict=True)])
    if not recipe.names_topic:
        reasons = _share([style(text) == "reasoned" for text in free])
        return {"sampled": sampled, "reasoned_if_forced": _share(right["reasoning"]), "reasons": reasons}
    figures = {"sampled": sampled}
    for how, topic in itertools.product(recipe.styles, TOPICS):
        members = [i for i, p in enumerate(data) if p.topic == topic]
        figures[f"{how}_if_forced/{topic}"] = _share([right[how][i] for i in members])
        figures[f"{how}_unasked/{topic}"] = _share([f"<{how}>" in free[i] for i in members])
    works = [figures[f"{recipe.works[topic]}_if_forced/{topic}"] for topic in TOPICS]
    fails = [figures[f"{h}_if_forced/{t}"] for h in recipe.styles for t in TOPICS if h != recipe.works[t]]
    return figures | {"works_if_forced": min(works), "fails_if_forced": max(fails)}


def passes(figures: Mapping[str, float], gate: Mapping[str, tuple[float, float]]) -> bool:
    """The quality gate: room to climb, a skill to find, and a habit to overcome."""
    return all(low <= figures[name] <= high for name, (low, high) in gate.items())


def main() -> None:
    """Make, measure, and write the policy if it passes the gate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--recipe", choices=RECIPES, default="builtin")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    start, recipe = time.process_time(), RECIPES[arguments.recipe]
    tokenizer = build_tokenizer(recipe)
    model = build_model(tokenizer, arguments.seed)
    train(model, tokenizer, recipe, arguments.seed)
    figures = measure(model, tokenizer, recipe)
    print(json.dumps({**figures, "cpu_seconds": round(time.process_time() - start)}))
    if not passes(figures, recipe.gate):
        raise SystemExit(f"The policy fails the gate {recipe.gate}; nothing was written. Try another --seed.")
    model.save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)
    weights = (arguments.out / "model.safetensors").read_bytes()
    record = {
        "recipe": arguments.recipe,
        "seed": arguments.seed,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "gate": recipe.gate,
        "measured": figures,
    }
    (arguments.out / "made.json").write_text(json.dumps(record, indent=2) + "\n")


def _right(text: str, problem: Worked) -> bool:
    return is_right(text, problem.answer)


def _share(found: list[bool]) -> float:
    return round(sum(found) / len(found), 3)


def _padded(rows: list[list[int]], value: int) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])


if __name__ == "__main__":
    main()
