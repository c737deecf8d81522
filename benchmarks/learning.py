"""Does federated GRPO learn? The built-in scenario over several seeds: table by class, curve, interval.

    python benchmarks/learning.py [--quick] [--seeds 5] [--figure docs/builtin.svg]

Each seed changes everything random: the training problems and their division over the clients, the frozen factors,
the sampling. The 300 held-out problems are the same. Intervals are 95 %, over seeds and problems as in `fedgrpo study`;
those of the last two rows, which compare different problems before and after, are Student's t over the seeds alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from fedgrpo.common.analysis.bootstrap import Outcomes, paired_difference, t95
from fedgrpo.common.analysis.scores import score
from fedgrpo.common.storage.jsonl import read_lines
from fedgrpo.server.run.reader import Run
from fedgrpo.simulations.engine.simulated_clients import divide
from rich.console import Console
from rich.table import Table


def simulate(seed: int, out: Path, rounds: int | None) -> Run:
    command = [sys.executable, "-m", "fedgrpo.common.cli.main", "simulate", "builtin", f"--seed={seed}", f"--out={out}"]
    command += [f"--run=seed-{seed}", "--format=json", *([f"--rounds={rounds}"] if rounds else [])]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return Run.read(out / f"seed-{seed}")


@dataclass(frozen=True, slots=True)
class Row:
    """Shares before and after, and their gain with its interval, over the seeds."""

    before: float
    after: float
    gain: float
    low: float
    high: float
    lowest: float

    @classmethod
    def of_problems(cls, before: Outcomes, after: Outcomes) -> Row:
        """Compare answers to the same problems, shape (seeds, problems)."""
        gain = paired_difference(after, before)
        return cls(before.mean(), after.mean(), gain.mean, gain.low, gain.high, min(gain.by_seed))

    @classmethod
    def of_shares(cls, before: list[float], after: list[float]) -> Row:
        """Compare one share per seed, whose problems are others before and after."""
        gains = [b - a for a, b in zip(before, after, strict=True)]
        gain, half = statistics.fmean(gains), half_interval(gains)
        return cls(statistics.fmean(before), statistics.fmean(after), gain, gain - half, gain + half, min(gains))


def half_interval(values: list[float]) -> float:
    """Half width of the 95 % interval of the mean by Student's t; 0 for a single seed, which has none."""
    return t95(len(values)) * statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0


def outcomes(runs: list[Run], decoding: str, *, last: bool) -> Outcomes:
    """Which held-out problems were right before or after the rounds, shape (seeds, problems)."""
    rows = []
    for run in runs:
        number = run.config.federation.rounds if last else 0
        lines = [
            line for line in read_lines(run.files.answers) if (line["round"], line["decoding"]) == (number, decoding)
        ]
        right = {i: float(mark) for line in lines for i, mark in zip(line["problems"], line["right"], strict=True)}
        rows.append([right[i] for i in range(len(right))])
    return np.array(rows)


def rows(runs: list[Run]) -> dict[str, Row]:
    """Return the table by class. Empty classes are left out."""
    pairs = {d: [outcomes(runs, d, last=last) for last in (False, True)] for d in ("sampled", "greedy")}
    found = {f"all, {decoding}": Row.of_problems(*pair) for decoding, pair in pairs.items()}
    problems = divide(runs[0].config)[1]
    for name in sorted(runs[0].before.classes):
        column, _, value = name.partition("=")
        chosen = [i for i, problem in enumerate(problems) if problem.labels.get(column) == value]
        if chosen:
            found[name] = Row.of_problems(*(right[:, chosen] for right in pairs["sampled"]))
    share = [[e.classes["style=reasoned"].problems / e.total.problems for e in (r.before, r.after)] for r in runs]
    found["share that reasons"] = Row.of_shares(*map(list, zip(*share, strict=True)))
    inside = [r.result()["accuracy"]["by_class"]["style=reasoned"] for r in runs]
    found["accuracy where it reasons"] = Row.of_shares([v["before"] for v in inside], [v["after"] for v in inside])
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
    halves = [half_interval(list(c)) for c in columns]
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
    for name, row in found.items():
        table.add_row(
            name, f"{row.before:.1%}", f"{row.after:.1%}", f"{row.gain:+.1%}", f"{row.low:+.1%} to {row.high:+.1%}",
            f"{row.lowest:+.1%}",
        )  # fmt: skip
    figures = {name: {key: round(value, 4) for key, value in asdict(row).items()} for name, row in found.items()}
    Console(width=110).print(table)
    print(json.dumps({"name": "learning", "ratios": {}, "figures": {**figures, "seconds": seconds}}))


if __name__ == "__main__":
    main()
