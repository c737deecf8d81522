"""Kill the processes of a real federation at random moments, and compare the final adapter with an undisturbed run's.

    python benchmarks/faults.py --kill learner --kills 10
    python benchmarks/faults.py --kill superlink --kills 3 --clients 2

A federation on loopback (`fedgrpo simulate --engine superlink`) is disturbed by `kill -9`, one process every few
seconds; its supervisors start again what died, and its journal and caches do the rest.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fedgrpo.server.run.journal import Committed, Journal, Planned, Resumed, Void
from fedgrpo.server.run.layout import RunFolder
from fedgrpo.server.run.reader import Run

MARKS = {
    "learner": b"fedgrpo.common.cli.main\0learner",
    "supernode": b"flower-supernode",
    "clientapp": b"flwr-clientapp",
    "superlink": b"flower-superlink",
    "serverapp": b"flwr-serverapp",
    "gateway": b"server\0gateway",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kill", choices=sorted(MARKS), default="learner")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=0, help="default: kills + 2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="one kill")
    given = parser.parse_args()
    kills = 1 if given.quick else given.kills
    rounds = given.rounds or kills + 2
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        base = Path(folder)
        options = ["--clients", str(given.clients), "--rounds", str(rounds), "--out", folder]
        for setting in (
            "federation.quorum=1.0",
            "federation.ask-again-s=30",
            "evaluation.every=0",
            "evaluation.problems=40",
        ):
            options += ["--set", setting]
        whole = simulate("whole", options)
        assert whole.wait() == 0
        started = time.monotonic()
        process = simulate("killed", [*options, "--engine", "superlink"])
        try:
            done = disturb(process, base, given.kill, kills, random.Random(given.seed), rounds)
            status, seconds = process.wait(), time.monotonic() - started
        finally:
            process.terminate()  # does nothing to one that has ended
            process.wait()
        hashes = [Run.read(base / name).result()["adapter_sha256"] for name in ("whole", "killed")]
        journal = Run.read(base / "killed").journal
        committed = [line.round for line in journal.of(Committed)]
    figures = {
        "killed": given.kill,
        "kills": len(done),
        "rounds_committed": len(committed),
        "committed_twice": len(committed) - len(set(committed)),
        "void_attempts": len(journal.of(Void)),
        "resumed": len(journal.of(Resumed)),
        "same_adapter": hashes[0] == hashes[1],
        "exit_status": status,
        "seconds": round(seconds, 1),
    }
    for name, value in figures.items():
        print(f"{name:18} {value}")
    print(json.dumps({"name": "faults", "ratios": {}, "figures": figures}))
    sys.exit(0 if figures["same_adapter"] and status == 0 else 1)


def simulate(name: str, options: list[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "fedgrpo.common.cli.main", "simulate", "--run", name, "--format", "json", *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def disturb(
    process: subprocess.Popen[bytes], base: Path, kind: str, kills: int, chance: random.Random, rounds: int
) -> list[int]:
    """Kill one process of a kind after another, each once a round has begun since the last; returns their ids."""
    killed: list[int] = []
    journal = RunFolder(base / "killed").journal
    while len(killed) < kills and process.poll() is None:
        wait_for_a_round(journal, process, count(journal, Committed))
        time.sleep(chance.uniform(0, 6))
        found: list[int] = []
        patience = time.monotonic() + 30
        while not found and process.poll() is None and time.monotonic() < patience:
            found = processes(base, MARKS[kind])
            time.sleep(0.02)
        if found and count(journal, Committed) < rounds:
            victim = chance.choice(found)
            os.kill(victim, signal.SIGKILL)
            killed.append(victim)
            print(f"kill {len(killed)}: {kind} {victim}, {count(journal, Committed)} rounds done", file=sys.stderr)
        time.sleep(chance.uniform(1, 6))
    return killed


def wait_for_a_round(journal: Path, process: subprocess.Popen[bytes], committed: int) -> None:
    """Wait until the round after the last committed one is under way."""
    while process.poll() is None and count(journal, Planned) <= committed:
        time.sleep(0.1)


def count(journal: Path, event: type[Committed | Planned]) -> int:
    return len({line.round for line in Journal.read(journal).of(event)})


def processes(base: Path, mark: bytes) -> list[int]:
    """Processes of the federation in a folder whose command line holds a mark."""
    found: list[int] = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command, environment = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
        except OSError:
            continue
        place = os.fsencode(base)
        if mark in command and (place in command or place in environment):
            found.append(int(entry.name))
    return found


if __name__ == "__main__":
    main()
