"""The sandbox of code rewards: runs a second, one after another and side by side, and what thousands of them leave.

    python benchmarks/sandbox.py [--quick] [--runs 10000]

Four runs of a hundred are hostile: an endless loop, a crash, a flood of the result pipe, forks. Counted before and
after, once a hundred have run: this process's open files, processes that run the sandbox's script, zombies of the whole
machine, and memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fedgrpo.client.learner import sandbox
from fedgrpo.client.learner.sandbox import Limits, Raised, Returned, levels

GOOD = "def f(x):\n    return x + 1\n"
HOSTILE = {
    0: ("def f(x):\n    while True: pass\n", {Raised("TimeLimit")}),
    25: ("import os\ndef f(x):\n    os._exit(0)\n", {Raised("Died")}),
    50: (
        "import os\ndef f(x):\n    while True:\n        os.write(3, b'x' * 65536)\n",
        {Raised("OutputLimit"), Raised("TimeLimit")},
    ),
    75: ("import os\ndef f(x):\n    while True: os.fork()\n", {Raised("PermissionError"), Raised("BlockingIOError")}),
}
LIMITS = Limits(seconds=10.0)
LOOP = Limits(seconds=0.5)


def one(number: int) -> bool:
    """Whether a run ended as it should; the code of some is hostile."""
    code, expected = HOSTILE.get(number % 100, (GOOD, {Returned(number + 1)}))
    limits = LOOP if number % 100 == 0 else LIMITS
    (found,) = sandbox.call(code, "f", [f"[{number}]"], limits=limits)
    return found in expected


def left() -> dict[str, int]:
    """What could leak."""
    mark, script, zombies = levels.SCRIPT.splitlines()[0].encode(), 0, 0
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit():
                script += mark in (entry / "cmdline").read_bytes()
                zombies += (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            continue
    open_files = len(os.listdir("/proc/self/fd"))
    return {"open_files": open_files, "processes": script, "zombies": zombies}


def speed(side_by_side: int, seconds: float) -> float:
    """Runs a second of a harmless function."""
    job = lambda n: sandbox.call(GOOD, "f", [f"[{n}]"], limits=LIMITS)  # noqa: E731
    begin, done = time.perf_counter(), 0
    with ThreadPoolExecutor(side_by_side) as pool:
        while time.perf_counter() - begin < seconds:
            list(pool.map(job, range(2 * side_by_side)))
            done += 2 * side_by_side
    return done / (time.perf_counter() - begin)


def bare_start_s(count: int) -> float:
    """Seconds that a bare interpreter takes to start and end, without any sandbox."""
    begin = time.perf_counter()
    for _ in range(count):
        subprocess.run([sys.executable, "-I", "-S", "-c", "pass"], check=True)
    return (time.perf_counter() - begin) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--quick", action="store_true", help="200 runs")
    given = parser.parse_args()
    runs, cores = 200 if given.quick else given.runs, min(8, os.cpu_count() or 1)
    print(f"level: {sandbox.level()}")
    sandbox.require()
    alone, together = speed(1, 3 if given.quick else 10), speed(cores, 3 if given.quick else 10)
    start = bare_start_s(20)
    print(f"runs a second: {alone:.1f} one after another, {together:.1f} with {cores} side by side")
    print(f"a bare interpreter takes {1000 * start:.0f} ms, a run in the sandbox {1000 / alone:.0f} ms")
    with ThreadPoolExecutor(cores) as pool:
        assert all(pool.map(one, range(100))), "a run did not end as it should"
        before, begin = left(), time.perf_counter()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        right = sum(sum(pool.map(one, range(first, first + 100))) for first in range(0, runs, 100))
        seconds, after = time.perf_counter() - begin, left()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024
    print(f"{runs} runs in {seconds:.0f} s: {right} ended as they should; memory grew by {grown:.1f} MB")
    print(f"{'':12} {'before':>8} {'after':>8}")
    for name, count in after.items():
        print(f"{name:12} {before[name]:8} {count:8}")
    leaked = {f"leaked_{name}": after[name] - before[name] for name in after}
    figures = {"runs": runs, "right": right, "runs_per_s_alone": alone, "runs_per_s": together, "grown_mb": grown}
    ratios = {"a run / a bare interpreter": 1 / alone / start}
    print(json.dumps({"name": "sandbox", "ratios": ratios, "figures": {**figures, **leaked}}))


if __name__ == "__main__":
    main()
