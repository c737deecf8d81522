"""What federating costs: a round of K clients against as many steps of a bare, warm `GRPOTrainer`.

    python benchmarks/round_overhead.py [--quick]

Both do the same work in one process and one thread: the same prompts in the same order, the same number of steps and
completions, from the same adapter, with a learning rate so small that completions stay of one length. The federated
side goes through the real server, client and serialised messages, and writes its journal and checkpoint. Repetitions
alternate; the ratios are of the medians, warm, without evaluation on either side: of the wall time, and of the CPU
time, which other programs on the machine disturb less.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from datasets import Dataset
from fedgrpo.client.learner.data.problems import reading_order
from fedgrpo.client.learner.models.adapted_model import adapter_schema, lora_config
from fedgrpo.client.learner.models.base_model import load_base, load_tokenizer
from fedgrpo.client.learner.models.process import prepare_process
from fedgrpo.client.learner.rewards import load_rewards
from fedgrpo.client.main import app
from fedgrpo.common.adapter.adapter import Adapter
from fedgrpo.common.settings.run_config import RunConfig
from fedgrpo.server.federation.evaluation import Evaluator
from fedgrpo.server.federation.exchange import ClientCalls
from fedgrpo.server.federation.roster import Roster
from fedgrpo.server.federation.rounds import Rounds
from fedgrpo.server.run.store import Store
from fedgrpo.simulations.engine.grid import LocalGrid, LocalWorker
from fedgrpo.simulations.engine.runner import scenario
from fedgrpo.simulations.engine.simulated_clients import BUILTIN_POLICY, client_name, divide
from rich.console import Console
from rich.table import Table
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

TINY = 1e-9


class Federated:
    """A federation that is kept warm, one round a call."""

    def __init__(self, config: RunConfig, folder: Path) -> None:
        clients = range(config.simulation.clients)
        nodes = {k + 2: {"partition-id": k, "num-partitions": len(clients)} for k in clients}
        worker = LocalWorker(app, nodes, config.flat())
        grid = LocalGrid(dict.fromkeys(nodes, worker))
        roster = Roster(grid, config, None, {})
        store = Store(folder)
        terms = roster.gather(lambda: None)
        self._start = store.create(config, "benchmark", Adapter.initial(terms.schema), terms.base_model_sha256)
        calls = ClientCalls(grid, config.federation, lambda: None)
        self._rounds = Rounds(calls, config, store, roster, Evaluator(calls, config, store, roster))

    def __call__(self) -> None:
        self._rounds.play(replace(self._start))


class Bare:
    """TRL alone: one trainer, all clients' prompts of the round one after the other."""

    def __init__(self, config: RunConfig) -> None:
        base = load_base(BUILTIN_POLICY, "float32", torch.device("cpu"))
        schema = adapter_schema(base, config)
        steps = config.simulation.clients * config.train.steps_per_round
        grpo = config.grpo
        rows = []
        for k, shard in enumerate(divide(config)[0]):
            count = config.train.steps_per_round * grpo.prompts_per_step
            order = reading_order(len(shard), 0, count, seed=config.federation.seed, reader=client_name(k))
            rows += [shard[i].row("") for i in order]
        self._trainer = GRPOTrainer(
            model=base,
            reward_funcs=list(load_rewards(config.simulation.rewards)),
            args=GRPOConfig(
                output_dir=tempfile.mkdtemp(),
                max_steps=steps,
                num_generations=grpo.num_generations,
                per_device_train_batch_size=grpo.per_device_train_batch_size,
                max_completion_length=grpo.max_completion_length,
                learning_rate=grpo.learning_rate,
                shuffle_dataset=False,
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                dataloader_pin_memory=False,
                report_to="none",
                save_strategy="no",
                logging_steps=1,
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=load_tokenizer(BUILTIN_POLICY),
            peft_config=lora_config(schema),
        )
        self._trainer.remove_callback(PrinterCallback)
        for name, parameter in self._trainer.model.named_parameters():
            parameter.requires_grad_("lora_B" in name)

    def __call__(self) -> None:
        self._trainer._step, self._trainer._buffered_inputs = 0, None
        self._trainer.optimizer = self._trainer.lr_scheduler = None
        self._trainer.train()


def seconds(call: Federated | Bare) -> tuple[float, float]:
    """(wall time, CPU time of all threads) of one call."""
    gc.collect()
    start, start_cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - start, time.process_time() - start_cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 repetitions of the short round only")
    quick = parser.parse_args().quick
    repetitions = 3 if quick else 9
    prepare_process()
    rows = {}
    for steps in (4,) if quick else (4, 16):
        config = scenario("builtin").with_values(
            {"grpo.learning-rate": TINY, "train.steps-per-round": steps, "federation.retry-wait-s": 0.0}
        )
        with tempfile.TemporaryDirectory() as folder:
            federated, bare = Federated(config, Path(folder)), Bare(config)
            federated(), bare()  # warm both
            runs = [(*seconds(federated), *seconds(bare)) for _ in range(repetitions)]
        medians = map(statistics.median, zip(*runs, strict=True))
        rows[steps] = dict(zip(("federated_s", "federated_cpu_s", "bare_s", "bare_cpu_s"), medians, strict=True))
    ratios = {}
    table = Table(title="4 clients, one process, one thread")
    for heading in ("steps per client", "", "federated round, s", "bare GRPOTrainer, s", "ratio"):
        table.add_column(heading, justify="right")
    for steps, found in rows.items():
        for what, unit in (("wall", "_s"), ("CPU", "_cpu_s")):
            ours, theirs = found[f"federated{unit}"], found[f"bare{unit}"]
            ratios[f"steps_{steps}_{what.lower()}"] = round(ours / theirs, 4)
            table.add_row(str(steps), what, f"{ours:.2f}", f"{theirs:.2f}", f"{ours / theirs:.3f}")
    Console().print(table)
    figures = {f"steps_{steps}": {key: round(s, 3) for key, s in found.items()} for steps, found in rows.items()}
    print(json.dumps({"name": "round_overhead", "ratios": ratios, "figures": figures}))


if __name__ == "__main__":
    main()
