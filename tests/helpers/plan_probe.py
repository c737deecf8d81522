"""Trains a random Qwen2 on a CPU as a learner does, and prints how much the process grew: what a plan is held to.

    python tests/helpers/plan_probe.py FOLDER VOCABULARY section.key=value ...

FOLDER gets the model. Run in a process of its own: memory that an earlier measurement freed would hide what this takes.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from fedgrpo.common.adapter.adapter import Adapter
from fedgrpo.common.messages.messages import TrainTask
from fedgrpo.common.settings.run_config import RunConfig, parse_override
from fedgrpo.simulations.engine import simulated_clients
from fedgrpo.simulations.planning.memory import memory_parts
from fedgrpo.simulations.planning.parts import ALWAYS, Machine, peak
from fedgrpo.simulations.planning.shapes import shape_of

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
PROMPT = 64
"""No prompt of the built-in world has more tokens; pads count as tokens do."""
BASE = {
    "federation.rounds": 1,
    "train.steps-per-round": 1,
    "grpo.num-generations": 4,
    "grpo.max-prompt-length": PROMPT,
    "simulation.clients": 1,
    "simulation.problems": 64,
    "evaluation.problems": 4,
    "evaluation.batch-size": 1,
}
REWARD = '''
def alike_never(completions, **_):
    """Every group has signal."""
    return [float(i) for i in range(len(completions))]
'''


def make_model(folder: Path, vocabulary: int, layers: int = 8, hidden: int = 512) -> None:
    """A Qwen2 of random weights, with the built-in policy's tokenizer."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=2,
        vocab_size=vocabulary,
        tie_word_embeddings=True,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    for name in TOKENIZER:
        shutil.copy(simulated_clients.BUILTIN_POLICY / name, folder)


def memory(key: str) -> int:
    """Bytes that /proc tells of this process: VmRSS, or VmHWM, the most there was."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key)]
    return int(line.split()[1]) * 1024


def one_round(config: RunConfig) -> int:
    """Train a round, and return by how many bytes the process grew at its most."""
    simulated_clients._loaded_model.cache_clear()
    learner = simulated_clients.simulated_learner({"partition-id": 0, "num-partitions": 1}, config)
    adapter = Adapter.initial(learner.capabilities().schema)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the most there was begins anew
    learner.train(TrainTask(federation="probe", round=1, attempt=1, adapter=adapter, position=0))
    return memory("VmHWM") - before


def main() -> None:
    folder = Path(sys.argv[1])
    (folder / "reward.py").write_text(REWARD)
    given = {**BASE, "output.dir": str(folder / "runs"), "simulation.rewards": str(folder / "reward.py")}
    config = RunConfig().with_values(given | dict(parse_override(text) for text in sys.argv[3:]))
    one_round(config.with_values({"grpo.max-completion-length": 8}))  # loads what is loaded late
    make_model(folder, vocabulary=int(sys.argv[2]))
    config = config.with_values({"model.name": str(folder)})
    grown = one_round(config)
    parts = memory_parts(config, shape_of(str(folder)), Machine("cpu"))
    there = sum(part.bytes for part in parts if part.when == ALWAYS and part.name != "optimizer")
    print(json.dumps({"measured": grown, "planned": peak(parts) - there}))


if __name__ == "__main__":
    main()
