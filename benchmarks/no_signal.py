"""What leaving out completions without an advantage saves, and what computing each prompt once does.

    python benchmarks/no_signal.py [--quick]

The built-in policy, 64 completions of 8 groups, in one process and one thread. A pass (loss and gradient) of our
trainer against TRL's own on the same batch, by the share of groups without signal (all prompts differ), and with one
prompt to each group; sampling with each prompt computed once against once for each completion. Prompts of 60 and of 400
tokens. Repetitions alternate; ratios are of medians.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable

import torch
from fedgrpo.client.learner.models.base_model import Base
from fedgrpo.client.learner.models.process import prepare_process
from fedgrpo.client.learner.samplers import Sampling
from fedgrpo.client.learner.training.local_learner import LoadedModel
from fedgrpo.common.adapter.adapter import Adapter
from fedgrpo.common.settings.run_config import RunConfig
from fedgrpo.simulations.builtin import world
from fedgrpo.simulations.engine.simulated_clients import BUILTIN_POLICY
from rich.console import Console
from rich.table import Table
from trl import GRPOTrainer

GROUPS, SIZE, PROMPT, LENGTH = 8, 8, 60, 100


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def ratio(ours: Callable[[], object], theirs: Callable[[], object], repeats: int) -> tuple[float, float, float]:
    """(median seconds of ours, of theirs, their ratio)."""
    ours(), theirs()
    pairs = [(timed(ours), timed(theirs)) for _ in range(repeats)]
    one, other = (statistics.median(times) for times in zip(*pairs, strict=True))
    return one, other, one / other


def batch(silent: int, *, shared: int = 0) -> dict[str, torch.Tensor]:
    """Completions of many lengths; the first `silent` groups have no advantage.

    Args:
        shared: tokens of the one prompt of each group; 0 has a prompt of its own for each completion.
    """
    draw = torch.Generator().manual_seed(0)
    count = GROUPS * SIZE
    lengths = torch.randint(LENGTH // 2, LENGTH + 1, (count, 1), generator=draw)
    mask = (torch.arange(LENGTH) < lengths).long()
    advantages = torch.randn(count, generator=draw)
    advantages[: silent * SIZE] = 0
    prompts = torch.randint(5, 700, (count, shared or PROMPT), generator=draw)
    if shared:
        prompts = prompts[:GROUPS].repeat_interleave(SIZE, dim=0)
    return {
        "prompt_ids": prompts,
        "prompt_mask": torch.ones_like(prompts),
        "completion_ids": torch.randint(5, 700, (count, LENGTH), generator=draw),
        "completion_mask": mask,
        "advantages": advantages,
        "num_items_in_batch": mask.sum(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three repetitions")
    repeats = 3 if parser.parse_args().quick else 15
    settings = {"grpo.num-generations": SIZE, "grpo.per-device-train-batch-size": GROUPS * SIZE}
    config = RunConfig().with_values({**settings, "grpo.max-completion-length": LENGTH, "grpo.max-prompt-length": 512})
    base = Base.load(BUILTIN_POLICY, "float32", prepare_process("cpu"))
    model = LoadedModel(base, config, world.problems("train", 1, 0)[0].problem())
    model.trainer.adapted.load(Adapter.initial(model.schema))
    table, ratios = Table("what", "ours, ms", "without, ms", "ratio"), {}

    def add(name: str, ours: Callable[[], object], theirs: Callable[[], object]) -> None:
        one, other, ratios[name] = ratio(ours, theirs, repeats)
        table.add_row(name, f"{one * 1e3:.0f}", f"{other * 1e3:.0f}", f"{ratios[name]:.2f}")

    trainer = model.trainer.trainer
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    plainly = config.with_values({"backend.shared-prompts": False})

    def ours(inputs: dict[str, torch.Tensor]) -> None:
        trainer.run_config = config
        trainer.compute_loss(trainer.model, inputs).backward()

    def theirs(inputs: dict[str, torch.Tensor]) -> None:
        trainer.run_config = plainly
        GRPOTrainer.compute_loss(trainer, trainer.model, inputs).backward()

    batches = {f"pass, {silent}/{GROUPS} groups without signal": batch(silent) for silent in (0, 2, 4, 6)}
    batches |= {f"pass, one prompt of {n} tokens to a group": batch(0, shared=n) for n in (60, 400)}
    for name, inputs in batches.items():
        add(name, functools.partial(ours, inputs), functools.partial(theirs, inputs))
    sampling = Sampling(max_tokens=20, temperature=1.0, seed=0)
    for tokens in (60, 400):
        prompts = [list(range(5 + i, 5 + i + tokens)) for i in range(GROUPS)]
        repeated = [prompt for prompt in prompts for _ in range(SIZE)]
        add(
            f"sampling, prompts of {tokens} tokens",
            lambda prompts=prompts: model.trainer.sampler.sample(prompts, sampling, count=SIZE),
            lambda repeated=repeated: model.trainer.sampler.sample(repeated, sampling),
        )
    Console(width=100).print(table)
    print(json.dumps({"name": "no_signal", "ratios": ratios, "figures": {}}))


if __name__ == "__main__":
    main()
