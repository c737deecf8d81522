"""How soon a client is at work on a round: with a resident learner, and with one that loads the model anew.

    python benchmarks/warm_rounds.py [--quick]

One federation on loopback (SuperLink, gateway, SuperNode, learner: real processes with TLS) of one client. In every
other round the learner is killed as the server pushes the task, so the new one has to import torch and TRL and load the
model, as a ClientApp without a resident learner does for every message. The time runs from the server's push to the
moment the learner begins the round; Flower's polls and process starts are in both.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from faults import MARKS, processes
from fedgrpo.server.run.journal import Journal, Planned
from fedgrpo.server.run.layout import RunFolder

BEGUN = re.compile(r"^(\S+ \S+) INFO train, round (\d+)$", re.MULTILINE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="three rounds")
    given = parser.parse_args()
    rounds = 3 if given.quick else given.rounds
    with tempfile.TemporaryDirectory(prefix="warm-") as folder:
        base = Path(folder)
        options = ["--clients", "1", "--rounds", str(rounds), "--out", folder, "--run", "warm"]
        for setting in ("federation.min-clients=1", "evaluation.every=0", "evaluation.problems=20"):
            options += ["--set", setting]
        command = [sys.executable, "-m", "fedgrpo.common.cli.main", "simulate", "--engine", "superlink", *options]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            pushed = follow(process, base, {n for n in range(2, rounds + 1) if n % 2 == 1})
            assert process.wait() == 0, "the federation failed"
        finally:
            process.terminate()  # does nothing to one that has ended
            process.wait()
        log = RunFolder(base / "warm").loopback / "client-0" / "state" / "logs" / "learner.log"
        begun = {int(n): dt.datetime.fromisoformat(when).timestamp() for when, n in BEGUN.findall(log.read_text())}
    waits = {n: begun[n] - pushed[n] for n in range(2, rounds + 1)}
    warm = [seconds for n, seconds in waits.items() if n % 2 == 0]
    cold = [seconds for n, seconds in waits.items() if n % 2 == 1]
    print("round   learner   seconds from push to work")
    for number, seconds in waits.items():
        print(f"{number:5}   {'resident' if number % 2 == 0 else 'anew':8}  {seconds:6.1f}")
    ratio = statistics.median(cold) / statistics.median(warm)
    print(f"median: {statistics.median(warm):.1f} s resident, {statistics.median(cold):.1f} s anew, ratio {ratio:.1f}")
    figures = {"warm_s": statistics.median(warm), "cold_s": statistics.median(cold), "warm_worst_s": max(warm)}
    print(json.dumps({"name": "warm_rounds", "ratios": {"anew / resident": ratio}, "figures": figures}))


def follow(process: subprocess.Popen[bytes], base: Path, kill_in: set[int]) -> dict[int, float]:
    """Round -> time of its push; kills the learner as the rounds in `kill_in` are pushed."""
    journal, pushed = RunFolder(base / "warm").journal, {}
    while process.poll() is None:
        for line in Journal.read(journal).of(Planned):
            if line.round not in pushed:
                pushed[line.round] = line.time
                if line.round in kill_in:
                    for victim in processes(base, MARKS["learner"]):
                        os.kill(victim, signal.SIGKILL)
        time.sleep(0.02)
    return pushed


if __name__ == "__main__":
    main()
