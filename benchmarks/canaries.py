"""Whether canaries are recognised, without differential privacy and at epsilon 3.5, 1.8 and 0.9.

    python benchmarks/canaries.py --out runs/canaries --jobs 2     half an hour on two cores; goes on if killed
    python benchmarks/canaries.py --quick

Each run over-fits on purpose: two clients read some sixty prompts ten times, most of them canaries that a coin
included. `fedgrpo audit membership` then guesses the coins. Two claims: the AUC over the coins falls with epsilon, and
the lower bound on epsilon that a run shows is not above the epsilon that its clients charged.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fedgrpo.client.learner.privacy.spent import FILE, Spent
from fedgrpo.server.run.layout import RunFolder
from rich.console import Console
from rich.table import Table
from scipy.stats import t

NOISE = {"none": 0.0, "epsilon 3.5": 1.51, "epsilon 1.8": 2.45, "epsilon 0.9": 4.27}
"""Noise multipliers, by about the largest epsilon that they charge a client: some 60 prompts, 4 a step, 160 steps."""
DELTA = 1e-5
SETTINGS = {
    "simulation.problems": 24,
    "simulation.partition": "iid",
    "simulation.workers": 1,
    "evaluation.every": 0,
    "evaluation.problems": 40,
    "grpo.loss-type": "dr_grpo",
    "grpo.learning-rate": 3e-2,
    "aggregation.method": "xs",
    "aggregation.weights": "uniform",
    "adapter.rank": 8,
    "adapter.alpha": 16,
}


def fedgrpo(*words: str) -> str:
    command = [sys.executable, "-m", "fedgrpo", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    return done.stdout


def played(folder: Path, arm: str, seed: int, *, rounds: int, canaries: int, limit: int) -> dict[str, Any]:
    """Train a run and audit it, unless that has been done; returns the audit, with what the clients charged."""
    name = f"{arm.replace(' ', '-')}-{seed}"
    run = folder / name
    noise = {"dp.noise-multiplier": NOISE[arm], "dp.clip-norm": 0.02, "dp.delta": DELTA} if NOISE[arm] else {}
    own = {"federation.seed": seed, "simulation.canaries": canaries}
    values = [f"--set={key}={value}" for key, value in {**SETTINGS, **own, **noise}.items()]
    if not (run / "membership.json").exists():
        again = ("--resume", str(run)) if RunFolder(run).begun else ()
        new = ("builtin", "--clients=2", f"--rounds={rounds}", f"--out={folder}", f"--run={name}", *values)
        fedgrpo("simulate", *(again or new))
        fedgrpo("audit", "membership", str(run), "--samples=4", f"--limit={limit}", f"--delta={DELTA}")
    spent = [Spent(path).epsilon(DELTA) for path in sorted((run / "clients").glob(f"*/{FILE}"))]
    audit = json.loads((run / "membership.json").read_text())
    return {"ledger": max(spent) if NOISE[arm] else math.inf, **audit["epsilon"], "run": name}


def interval(values: list[float]) -> tuple[float, float]:
    """95 % interval of a mean over seeds, by Student's t."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return -math.inf, math.inf
    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, two arms, few rounds: shows that it runs")
    parser.add_argument("--out", type=Path, help="folder of the runs; default: a temporary one")
    parser.add_argument("--seeds", type=int, default=7)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    arms, seeds = (list(NOISE)[:2], 1) if options.quick else (list(NOISE), options.seeds)
    size = (
        {"rounds": 1, "canaries": 20, "limit": 20} if options.quick else {"rounds": 40, "canaries": 200, "limit": 400}
    )
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(options.jobs) as pool:
        folder = (options.out or Path(temporary)).resolve()
        work = {(arm, seed): pool.submit(played, folder, arm, seed, **size) for seed in range(seeds) for arm in arms}
        results = {key: job.result() for key, job in work.items()}
    table = Table("arm", "AUC over the coins", "95 %", "largest bound", "charged", "bound <= charged")
    figures: dict[str, float] = {}
    for arm in arms:
        mine = [results[arm, seed] for seed in range(seeds)]
        aucs, kept = [each["auc"] for each in mine], sum(each["epsilon"] <= each["ledger"] for each in mine)
        low, high = interval(aucs)
        name, bound = arm.replace(" ", "_"), max(each["epsilon"] for each in mine)
        charged = max(each["ledger"] for each in mine)
        figures |= {f"auc_{name}": round(statistics.fmean(aucs), 4), f"bound_{name}": round(bound, 4)}
        figures |= {f"kept_{name}": kept, f"charged_{name}": round(charged, 3) if NOISE[arm] else 0.0}
        shown = f"{statistics.fmean(aucs):.3f}", f"{low:.3f} to {high:.3f}", f"{bound:.3f}"
        table.add_row(arm, *shown, f"{charged:.2f}", f"{kept} of {seeds}")
    Console().print(table)
    print(json.dumps({"name": "canaries", "ratios": {}, "figures": {"seeds": seeds, **figures}}))


if __name__ == "__main__":
    main()
