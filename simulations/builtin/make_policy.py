"""Train a built-in policy: tokenizer, cold start, and the quality gate for a release.

    python -m fedgrpo.simulations.builtin.make_policy --out policy                        # two minutes on one core
    python -m fedgrpo.simulations.builtin.make_policy --recipe split --out policy_split   # three

The cold start uses correct demonstrations only, in mixed styles (`demonstrations.py`). So the policy can solve problems
and mostly does not; GRPO finds out what is rewarded. What matters is that most demonstrations have no loss on the token
that begins a style: the policy learns to solve a problem once it has begun, and the natural mix of whether to begin.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import random
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from ...client.learner.data.answers import style
from ...client.learner.data.judge import is_right
from .cold_start import IGNORED, drill_batches, examples, word_batches
from .demonstrations import RECIPES, Recipe
from .policy_model import build_model, build_tokenizer
from .world import TOPICS, Worked, problems

DRILL_SHARE = 0.35
DRILLS_FIRST = 40


def train(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, recipe: Recipe, seed: int) -> None:
    """Run the supervised cold start: Muon on the matrices (Jordan et al. 2024), AdamW on the rest; cosine after a
    warm-up."""
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
        scored = labels[:, 1:] != IGNORED
        loss = torch.nn.functional.cross_entropy(model.lm_head(hidden[scored]), labels[:, 1:][scored])
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
    """Return sampled completions, temperature 1, that begin with `opening`."""
    torch.manual_seed(0)
    openings = [opening.format(topic=p.topic) for p in data]
    texts = [f"<|user|>{p.question}<|end|><|assistant|>{o}" for p, o in zip(data, openings, strict=True)]
    inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    output = model.eval().generate(  # pyright: ignore[reportAttributeAccessIssue]
        **{k: inputs[k] for k in ("input_ids", "attention_mask")}, do_sample=True, top_k=0, max_new_tokens=44
    )
    completions = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [o + text for o, text in zip(openings, completions, strict=True)]


def measure(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> dict[str, float]:
    """Return the sampled accuracy, and the figures of the recipe's gate, on 500 problems."""
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
    """Return whether the figures are within the gate: room to improve, a skill to find, and a habit to overcome."""
    return all(low <= figures[name] <= high for name, (low, high) in gate.items())


def main() -> None:
    """Train, measure, and write the policy if it passes the gate."""
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


def _share(values: list[bool]) -> float:
    return round(sum(values) / len(values), 3)


if __name__ == "__main__":
    main()
