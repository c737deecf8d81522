"""Does federated GRPO learn? The built-in scenario over several seeds: table by class, curve, interval.

    python benchmarks/learning.py [--quick] [--seeds 5] [--figure docs/builtin.svg]

Each seed changes everything random: the training problems and their division over the clients, the frozen factors,
the sampling. The 300 held-out problems are the same. Intervals are Student's t over the seeds, 95 %.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from fedgrpo.common.analysis.scores import score
from fedgrpo.server.run.reader import Run
from rich.console import Console
from rich.table import Table

T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}
"""Student's t for n - 1 degrees of freedom, by n."""


def simulate(seed: int, out: Path, rounds: int | None) -> Run:
    command = [sys.executable, "-m", "fedgrpo.common.cli.main", "simulate", "builtin", f"--seed={seed}", f"--out={out}"]
    command += [f"--run=seed-{seed}", "--format=json", *([f"--rounds={rounds}"] if rounds else [])]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return Run.read(out / f"seed-{seed}")


def interval(values: list[float]) -> float:
    """Half width of the 95 % interval of the mean; 0 for a single seed, which has none."""
    return T95[len(values)] * statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0


def rows(runs: list[Run]) -> dict[str, list[tuple[float, float]]]:
    """Per class, (before, after) of every seed. Empty classes are left out."""
    found = {"all, sampled": [(score(r.before.total).strict, score(r.after.total).strict) for r in runs]}
    found["all, greedy"] = [(score(r.greedy[0].total).strict, score(r.greedy[-1].total).strict) for r in runs]
    for name in sorted(runs[0].before.classes):
        if name.startswith(("operator=", "steps=", "topic=")):
            values = [r.result()["accuracy"]["by_class"][name] for r in runs]
            found[name] = [(v["before"], v["after"]) for v in values]
    share = [[e.classes["style=reasoned"].problems / e.total.problems for e in (r.before, r.after)] for r in runs]
    found["share that reasons"] = [(before, after) for before, after in share]
    inside = [r.result()["accuracy"]["by_class"]["style=reasoned"] for r in runs]
    found["accuracy where it reasons"] = [(v["before"], v["after"]) for v in inside]
    return found


def draw(runs: list[Run], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    rounds = [e.round for e in runs[0].sampled]
    curves = [[score(e.total).strict for e in r.sampled] for r in runs]
    for run, curve in zip(runs, curves, strict=True):
        axes.plot(rounds, curve, lw=0.8, alpha=0.5, label=f"seed {run.config.federation.seed}")
    columns = list(zip(*curves, strict=True))
    means = [statistics.fmean(c) for c in columns]
    halves = [interval(list(c)) for c in columns]
    axes.plot(rounds, means, "k", lw=2, label="mean")
    bounds = [[m + sign * h for m, h in zip(means, halves, strict=True)] for sign in (-1, 1)]
    axes.fill_between(rounds, *bounds, color="k", alpha=0.12, label="95 % interval of the mean")
    axes.set(xlabel="round", ylabel="held-out accuracy (sampled, strict)", ylim=(0, 1))
    axes.grid(alpha=0.2)
    axes.legend(frameon=False, fontsize="small")
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, three rounds: shows that it runs")
    parser.add_argument("--seeds", type=int, default=5, choices=range(2, 9))
    parser.add_argument("--figure", type=Path, help="SVG or PNG to draw the curves to")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seeds = range(1) if arguments.quick else range(arguments.seeds)
        runs = [simulate(seed, Path(folder), 3 if arguments.quick else None) for seed in seeds]
        if arguments.figure:
            draw(runs, arguments.figure)
        found = rows(runs)
        seconds = [sum(line.seconds for line in run.rounds) for run in runs]
    table = Table(title=f"built-in scenario, {len(runs)} seeds, {len(runs[0].rounds)} rounds")
    for heading in ("", "before", "after", "gain", "95 % interval", "lowest gain"):
        table.add_column(heading, justify="right" if heading else "left")
    figures = {}
    for name, pairs in found.items():
        before, after = (statistics.fmean(column) for column in zip(*pairs, strict=True))
        gains = [b - a for a, b in pairs]
        half = interval(gains)
        low, high = after - before - half, after - before + half
        table.add_row(
            name, f"{before:.1%}", f"{after:.1%}", f"{after - before:+.1%}", f"{low:+.1%} to {high:+.1%}",
            f"{min(gains):+.1%}",
        )  # fmt: skip
        exact = {
            "before": before,
            "after": after,
            "gain": after - before,
            "low": low,
            "high": high,
            "lowest": min(gains),
        }
        figures[name] = {key: round(value, 4) for key, value in exact.items()}
    Console(width=110).print(table)
    print(json.dumps({"name": "learning", "ratios": {}, "figures": {**figures, "seconds": seconds}}))


if __name__ == "__main__":
    main()
