"""Does it matter where completions come from? The built-in scenario under each sampler, same seeds, paired.

    python benchmarks/samplers.py --vllm-python /opt/vllm/bin/python [--quick] [--seeds 3] [--correction none]

Flower and vLLM cannot be in one environment: this one plays the rounds, and vLLM samples as a server in the other
(docs/backends.md). The same seeds draw the same problems and the same frozen factors
everywhere; what is sampled differs, since vLLM draws its own random numbers. Differences are paired by seed, with
Student's t, 95 %. On a CPU this says that vLLM trains the same, not that it is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from fedgrpo.common.analysis.bootstrap import t95
from fedgrpo.common.analysis.scores import score
from fedgrpo.server.run.layout import RunFolder
from fedgrpo.server.run.reader import Run
from rich.console import Console
from rich.table import Table


def simulate(sampler: str, seed: int, rounds: int, problems: int, given: argparse.Namespace, out: Path) -> Run:
    name = f"{sampler}-{seed}"
    if RunFolder(out / name).report.exists():
        return Run.read(out / name)
    command = [sys.executable, "-m", "fedgrpo.common.cli.main", "simulate", "builtin", f"--seed={seed}", f"--out={out}"]
    command += [f"--run={name}", "--workers=1", f"--rounds={rounds}", "--format=json"]
    for setting in (
        f"backend.sampler={sampler}",
        f"backend.sampler-correction={given.correction}",
        f"backend.vllm-python={given.vllm_python}",
        f"evaluation.problems={problems}",
        f"evaluation.every={max(1, rounds // 4)}",
    ):
        command += ["--set", setting]
    done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return Run.read(out / name)


def curve(run: Run) -> dict[int, float]:
    """Round -> sampled, strict accuracy."""
    return {evaluated.round: score(evaluated.total).strict for evaluated in run.sampled}


def gaps(run: Run) -> list[float]:
    """|log-probability of the trainer - of the sampler|, nats per token, each round and client."""
    return [client.reported["policy/sampler-gap"] for line in run.rounds for client in line.clients.values()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, two rounds: shows that it works")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--problems", type=int, default=300)
    parser.add_argument("--samplers", default="transformers,vllm-server")
    parser.add_argument("--vllm-python", default=os.environ.get("FEDGRPO_VLLM_PYTHON", ""), help="Python with vLLM")
    parser.add_argument("--correction", default="ratio")
    parser.add_argument("--out", type=Path, help="keep the runs here, and do not play again what is there")
    given = parser.parse_args()
    seeds, rounds, problems = (1, 2, 40) if given.quick else (given.seeds, given.rounds, given.problems)
    samplers = given.samplers.split(",")
    with tempfile.TemporaryDirectory() as folder:
        out = given.out or Path(folder)
        runs = {
            sampler: [simulate(sampler, s, rounds, problems, given, out) for s in range(seeds)] for sampler in samplers
        }
        show(runs, samplers)


def show(runs: dict[str, list[Run]], samplers: list[str]) -> None:
    curves = {sampler: [curve(run) for run in runs[sampler]] for sampler in samplers}
    points = sorted(curves[samplers[0]][0])
    table = Table(title="held-out accuracy, sampled, strict, mean over the seeds")
    for heading in ("sampler", *(f"round {point}" for point in points), f"against {samplers[0]}", "gap, nats"):
        table.add_column(heading)
    figures = {}
    for sampler in samplers:
        means = [statistics.mean(one[point] for one in curves[sampler]) for point in points]
        pairs = zip(curves[sampler], curves[samplers[0]], strict=True)
        differences = [one[points[-1]] - other[points[-1]] for one, other in pairs]
        half = (
            t95(len(differences)) * statistics.stdev(differences) / len(differences) ** 0.5 if differences[1:] else 0.0
        )
        gap = max(value for run in runs[sampler] for value in gaps(run))
        figures[sampler] = {
            "curve": dict(zip(map(str, points), means, strict=True)),
            "difference": statistics.mean(differences),
            "half_interval": half,
            "largest_gap": gap,
        }
        against = "" if sampler == samplers[0] else f"{statistics.mean(differences):+.1%} ± {half:.1%}"
        table.add_row(sampler, *(f"{mean:.1%}" for mean in means), against, f"{gap:.1g}")
    Console(width=120).print(table)
    print(json.dumps({"name": "samplers", "ratios": {}, "figures": figures}))


if __name__ == "__main__":
    main()
