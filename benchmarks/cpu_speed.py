"""A real model on a processor: tokens a second and seconds a step, float32 against bfloat16, against bare TRL and vLLM.

    python benchmarks/cpu_speed.py [--quick] [--model smollm2-135m] [--repeat 3] [--vllm-python /opt/vllm/bin/python]

Each arm is a process with a warm model. They take turns, one step of GRPO each (32 completions of at most 64 tokens to
8 prompts, rewards by a hash of the completion, so that every group has signal), so that what else runs on the machine
meets all of them. Beside seconds by the clock there are seconds of the processor, which other programs change less.
vLLM samples only. An arm that cannot run here is left out with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

Step = Callable[[], dict[str, float]]
COMPLETIONS, GROUP, TOKENS = 32, 4, 64
VLLM = """
import json, sys, time
from vllm import LLM, SamplingParams
folder, prompts, tokens, group, dtype = json.loads(sys.argv[1])
llm = LLM(folder, dtype=dtype, max_model_len=1024, enforce_eager=True)
drawn = SamplingParams(n=group, temperature=1.0, max_tokens=tokens)
def step():
    start = time.perf_counter()
    out = llm.generate([{"prompt_token_ids": p} for p in prompts], drawn, use_tqdm=False)
    seconds = time.perf_counter() - start
    return {"tokens": sum(len(c.token_ids) for o in out for c in o.outputs), "generate_s": seconds}
step()
print("ready", flush=True)
for _ in sys.stdin:
    print(json.dumps(step()), flush=True)
"""


def by_hash(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Rewards that differ within every group, at no cost."""
    return [zlib.crc32(bytes(str(ids), "ascii")) / 2**32 for ids in completion_ids]


def settings(model: str, dtype: str) -> Any:
    from fedgrpo.common.settings.run_config import RunConfig

    return RunConfig().with_values(
        {
            "model.name": model,
            "model.dtype": dtype,
            "train.steps-per-round": 1,
            "grpo.num-generations": GROUP,
            "grpo.per-device-train-batch-size": COMPLETIONS,
            "grpo.max-completion-length": TOKENS,
            "grpo.max-prompt-length": 256,
        }
    )


def problems(count: int) -> list[Any]:
    from fedgrpo.simulations.builtin import world

    return [worked.problem() for worked in world.problems("train", count, 0)]


def ours(model: str, dtype: str) -> Step:
    """Return a step of a client of ours."""
    from fedgrpo.client.learner.models.load import load_model
    from fedgrpo.client.learner.models.model_files import model_folder

    config = settings(model, dtype)
    base = load_model(model_folder(model), dtype)
    from fedgrpo.client.learner.rewards import Reward
    from fedgrpo.client.learner.training.local_learner import ClientData, LoadedModel, LocalLearner
    from fedgrpo.client.learner.training.watcher import Watcher
    from fedgrpo.common.adapter.adapter import Adapter
    from fedgrpo.common.messages.messages import TrainTask

    shard = problems(config.prompts_per_round * 4)
    loaded = LoadedModel(base, config, shard[0])
    rewards = (Reward("hash", 1.0, by_hash, __file__),)
    data = ClientData(organisation="bench", shard=shard, held_out=shard[:2], rewards=rewards, system_prompt="")
    learner = LocalLearner(loaded, data, Watcher())
    task = TrainTask(federation="b", round=1, attempt=1, adapter=Adapter.initial(loaded.schema), position=0)

    def step() -> dict[str, float]:
        metrics = learner.train(task).metrics
        return {"tokens": metrics["tokens/total"], "generate_s": metrics["seconds/generate"]}

    return step


def bare(model: str, dtype: str) -> Step:
    """Return a step of TRL alone: the same settings, its own generation."""
    from datasets import Dataset
    from fedgrpo.client.learner.models.adapted_model import adapter_schema, lora_config
    from fedgrpo.client.learner.models.load import load_model
    from fedgrpo.client.learner.models.model_files import model_folder
    from fedgrpo.client.learner.training.trl_config import trl_config
    from transformers import PrinterCallback
    from trl import GRPOTrainer

    config = settings(model, dtype)
    base = load_model(model_folder(model), dtype)
    found: dict[str, float] = {}

    class Timed(GRPOTrainer):
        def _generate(self, prompts: list[Any]) -> Any:
            start = time.perf_counter()
            result = super()._generate(prompts)
            found["generate_s"] = time.perf_counter() - start
            return result

    def counted(completion_ids: list[list[int]], **rest: Any) -> list[float]:
        found["tokens"] = sum(map(len, completion_ids))
        return by_hash(completion_ids, **rest)

    trainer = Timed(
        model=base.model,
        reward_funcs=[counted],
        args=trl_config(config, base.model.device),
        train_dataset=Dataset.from_list([problem.row("") for problem in problems(config.prompts_per_round * 4)]),
        processing_class=base.tokenizer,
        peft_config=lora_config(adapter_schema(base.model, config)),
    )
    trainer.remove_callback(PrinterCallback)

    def step() -> dict[str, float]:
        trainer._step, trainer._buffered_inputs = 0, None
        trainer.train()
        return dict(found)

    return step


def serve(name: str, model: str) -> None:
    """Be an arm: one warm step, then one for each line on stdin."""
    kind, dtype = name.split(":")
    step = (ours if kind == "fedgrpo" else bare)(model, dtype)
    step()
    print("ready", flush=True)
    for _ in sys.stdin:
        start, used = time.perf_counter(), time.process_time()
        figures = step()
        spent = {"step_s": time.perf_counter() - start, "step_cpu_s": time.process_time() - used}
        print(json.dumps({**figures, **spent}), flush=True)


class Arm:
    """An arm's process, started and warm."""

    def __init__(self, name: str, command: list[str]) -> None:
        self.name, self.figures = name, list[dict[str, float]]()
        quiet = {**os.environ, "HF_HUB_OFFLINE": "1"}
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - a pipe that nobody reads stops who fills it
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, env=quiet
        )
        self.runs = self._until("ready")

    def step(self) -> None:
        assert self._process.stdin is not None
        print("step", file=self._process.stdin, flush=True)
        line = self._line("{")
        self.figures.append(json.loads(line))

    def close(self) -> str:
        """End the process, and return the last line of its errors."""
        self._process.communicate()
        self._errors.seek(0)
        return (self._errors.read().strip().splitlines() or [""])[-1]

    def _until(self, word: str) -> bool:
        return self._line(word).startswith(word)

    def _line(self, start: str) -> str:
        assert self._process.stdout is not None
        return next((line for line in self._process.stdout if line.startswith(start)), "")


def arms(given: argparse.Namespace) -> list[Arm]:
    names = ["fedgrpo:float32", "fedgrpo:bfloat16", "TRL:float32", "TRL:bfloat16"]
    found = [Arm(name, [sys.executable, __file__, "--arm", name, "--model", given.model]) for name in names]
    if given.vllm_python:
        found.append(Arm("vLLM:bfloat16", [given.vllm_python, "-c", VLLM, _for_vllm(given.model)]))
    else:
        print("vLLM is left out: give --vllm-python, the Python of an environment with vLLM for processors")
    return found


def _for_vllm(model: str) -> str:
    from fedgrpo.client.learner.models.base_model import load_tokenizer
    from fedgrpo.client.learner.models.model_files import model_folder
    from fedgrpo.client.learner.training.evaluate import prompt_texts

    folder = model_folder(model)
    tokenizer = load_tokenizer(folder)
    texts = prompt_texts(tokenizer, problems(COMPLETIONS // GROUP), "")
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return json.dumps([str(folder), ids, TOKENS, GROUP, "bfloat16"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the built-in policy, one step: shows that it runs")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--repeat", type=int, default=3, help="steps of each arm")
    parser.add_argument("--vllm-python", default=os.environ.get("FEDGRPO_VLLM_PYTHON", ""))
    parser.add_argument("--arm", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.arm:
        serve(given.arm, given.model)
        return
    if given.quick:
        given.model, given.repeat, given.vllm_python = "builtin", 1, ""
    players = arms(given)
    for _ in range(given.repeat):
        for arm in players:
            if arm.runs:
                arm.step()
    show(players, given)


def show(players: list[Arm], given: argparse.Namespace) -> None:
    from fedgrpo.client.learner.models.precision import cores, processor_bfloat16

    able = processor_bfloat16() or "no bfloat16"
    table = Table(title=f"{given.model}, {cores()} cores, {able}; medians of {given.repeat} steps")
    for heading in ("arm", "tokens/s sampled", "s/step", "processor s/step"):
        table.add_column(heading)
    figures: dict[str, dict[str, float]] = {}
    for arm in players:
        error = arm.close()
        if not arm.runs:
            print(f"{arm.name} is left out: {error}")
            continue
        speed = statistics.median(f["tokens"] / f["generate_s"] for f in arm.figures)
        figures[arm.name] = {"tokens_per_s": speed}
        for key in ("step_s", "step_cpu_s"):
            if key in arm.figures[0]:
                figures[arm.name][key] = statistics.median(f[key] for f in arm.figures)
        row = figures[arm.name]
        table.add_row(
            arm.name, *(f"{row[k]:.3g}" if k in row else "" for k in ("tokens_per_s", "step_s", "step_cpu_s"))
        )
    ours32, ours16 = figures["fedgrpo:float32"], figures["fedgrpo:bfloat16"]
    ratios = {
        "bfloat16 step, processor time, of float32's": ours16["step_cpu_s"] / ours32["step_cpu_s"],
        "bfloat16 sampling speed, of float32's": ours16["tokens_per_s"] / ours32["tokens_per_s"],
        "fedgrpo step, processor time, of TRL's (float32)": ours32["step_cpu_s"] / figures["TRL:float32"]["step_cpu_s"],
    }
    Console(width=110).print(table)
    print("; ".join(f"{name}: {value:.3f}" for name, value in ratios.items()))
    print(json.dumps({"name": "cpu_speed", "ratios": ratios, "figures": figures}))


if __name__ == "__main__":
    main()
