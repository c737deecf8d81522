"""A model of real shape with random weights: seconds by phase, completions per second, memory, against bare TRL.

    python benchmarks/real_model.py [--quick] [--device cuda] [--shape qwen2.5-0.5b] [--loader unsloth] [--clients 8]

Each arm is a process of its own, so that its peak memory is its own: bare TRL, one client, and many virtual clients
that share one base model. All take the same steps on the same problems. Rewards are drawn by a hash of the completion:
every group has signal, so that nobody is faster by leaving work out. On a GPU memory is what PyTorch had reserved at
most; on a CPU it is the process's resident set at most, libraries included. The many clients play one round each.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

SHAPES = {
    "qwen2.5-0.5b": {
        "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2, "vocab_size": 151936,
    },
    "small": {
        "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8, "num_attention_heads": 8,
        "num_key_value_heads": 2, "vocab_size": 32000,
    },
    "tiny": {
        "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 2000,
    },
}  # fmt: skip
STEPS = 3


def build(shape: str, folder: Path) -> None:
    """A random model with the built-in policy's tokenizer."""
    import shutil

    import torch
    from fedgrpo.simulations.engine.simulated_clients import BUILTIN_POLICY
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(BUILTIN_POLICY, **SHAPES[shape])
    config.layer_types = ["full_attention"] * config.num_hidden_layers
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        if (BUILTIN_POLICY / name).exists():
            shutil.copy(BUILTIN_POLICY / name, folder / name)


def by_hash(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Rewards that differ within every group, at no cost."""
    return [zlib.crc32(bytes(str(ids), "ascii")) / 2**32 for ids in completion_ids]


def settings(given: argparse.Namespace) -> Any:
    from fedgrpo.common.settings.run_config import RunConfig

    return RunConfig().with_values(
        {
            "federation.rounds": 4,
            "train.steps-per-round": STEPS,
            "model.dtype": "bfloat16" if given.device == "cuda" else "float32",
            "backend.loader": given.loader,
            "grpo.num-generations": 8,
            "grpo.per-device-train-batch-size": 8,
            "grpo.gradient-accumulation-steps": 4 if given.device == "cuda" else 1,
            "grpo.max-completion-length": 256 if given.device == "cuda" else 16,
            "grpo.max-prompt-length": 512,
        }
    )


def problems(count: int) -> list[Any]:
    from fedgrpo.simulations.builtin import world

    return [worked.problem() for worked in world.problems("train", count, 0)]


def ours(given: argparse.Namespace, folder: Path, clients: int) -> dict[str, float]:
    """Rounds of some clients, one after the other, on one resident model."""
    from fedgrpo.client.learner.models.load import load_model

    config = settings(given)
    base = load_model(folder, config.model.dtype, backend=config.backend, device=given.device)
    from fedgrpo.client.learner.rewards import Reward
    from fedgrpo.client.learner.training.local_learner import ClientData, LoadedModel, LocalLearner
    from fedgrpo.client.learner.training.watcher import Watcher
    from fedgrpo.common.adapter.adapter import Adapter
    from fedgrpo.common.messages.messages import TrainTask

    shard = problems(config.prompts_per_round * 4)
    model = LoadedModel(base, config, shard[0])
    rewards = (Reward("hash", 1.0, by_hash, __file__),)
    learners = [
        LocalLearner(
            model,
            ClientData(organisation=f"c{k}", shard=shard, held_out=shard[:2], rewards=rewards, system_prompt=""),
            Watcher(),
        )
        for k in range(clients)
    ]
    seconds, phases = [], []
    for number in range(1, 4 if clients == 1 else 2):
        for learner in learners:
            adapter = Adapter.initial(model.schema)
            task = TrainTask(federation="b", round=number, attempt=1, adapter=adapter, position=0)
            start = time.perf_counter()
            metrics = learner.train(task).metrics
            seconds.append(time.perf_counter() - start)
            phases.append(metrics)
    warm = phases[1:]
    completions = config.prompts_per_round * config.grpo.num_generations
    return {
        "round_s": statistics.median(seconds[1:]),
        "completions_per_s": completions / statistics.median(seconds[1:]),
        "generate_s": statistics.median(m["seconds/generate"] for m in warm),
        "update_s": statistics.median(m["seconds/update"] for m in warm),
        "memory_mb": memory(given.device),
    }


def bare(given: argparse.Namespace, folder: Path) -> dict[str, float]:
    """TRL alone: one warm trainer, the same steps."""
    from datasets import Dataset
    from fedgrpo.client.learner.models.adapted_model import adapter_schema, lora_config
    from fedgrpo.client.learner.models.load import load_model
    from fedgrpo.client.learner.training.trl_config import trl_config
    from transformers import PrinterCallback
    from trl import GRPOTrainer

    config = settings(given)
    base = load_model(folder, config.model.dtype, device=given.device)
    trainer = GRPOTrainer(
        model=base.model,
        reward_funcs=[by_hash],
        args=trl_config(config, base.model.device),
        train_dataset=Dataset.from_list([problem.row("") for problem in problems(config.prompts_per_round * 4)]),
        processing_class=base.tokenizer,
        peft_config=lora_config(adapter_schema(base.model, config)),
    )
    trainer.remove_callback(PrinterCallback)
    seconds = []
    for _ in range(3):
        trainer._step, trainer._buffered_inputs = 0, None
        start = time.perf_counter()
        trainer.train()
        seconds.append(time.perf_counter() - start)
    completions = config.prompts_per_round * config.grpo.num_generations
    warm = statistics.median(seconds[1:])
    return {"round_s": warm, "completions_per_s": completions / warm, "memory_mb": memory(given.device)}


def memory(device: str) -> float:
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_reserved() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny model and 2 clients: shows that it runs")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--shape", default="qwen2.5-0.5b", choices=list(SHAPES))
    parser.add_argument("--loader", default="transformers", choices=["transformers", "unsloth"])
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--arm", default="", help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.arm:
        found = bare(given, given.model) if given.arm == "bare" else ours(given, given.model, int(given.arm))
        print(json.dumps(found))
        return
    if given.quick:
        given.shape, given.clients = "tiny", 2
    with tempfile.TemporaryDirectory() as folder:
        build(given.shape, Path(folder))
        show({arm: played(arm, given, folder) for arm in ("bare", "1", str(given.clients))}, given)


def played(arm: str, given: argparse.Namespace, folder: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--arm", arm, "--model", folder, "--device", given.device]
    done = subprocess.run([*command, "--loader", given.loader], check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{arm} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def show(found: dict[str, dict[str, float]], given: argparse.Namespace) -> None:
    table = Table(title=f"{given.shape}, {given.device}, {given.loader}; a round of {STEPS} steps")
    columns = ("round_s", "completions_per_s", "generate_s", "update_s", "memory_mb")
    for heading in ("arm", *columns):
        table.add_column(heading)
    for arm, figures in found.items():
        name = "bare TRL" if arm == "bare" else f"{arm} client{'s' if arm != '1' else ''}"
        table.add_row(name, *(f"{figures[c]:.4g}" if c in figures else "" for c in columns))
    many = found[str(given.clients)]
    ratios = {
        "round against bare TRL": found["1"]["round_s"] / found["bare"]["round_s"],
        f"memory of {given.clients} clients against 1": many["memory_mb"] / found["1"]["memory_mb"],
    }
    Console(width=110).print(table)
    print("; ".join(f"{name}: {value:.3f}" for name, value in ratios.items()))
    print(json.dumps({"name": "real_model", "ratios": ratios, "figures": found}))


if __name__ == "__main__":
    main()
