"""`fedgrpo study` as a person runs it: killed in the middle, it goes on, and the table is what the runs say."""

import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from fedgrpo.common.analysis.bootstrap import paired_difference
from fedgrpo.common.storage.jsonl import read_lines
from fedgrpo.server.run.reader import Run

pytestmark = pytest.mark.e2e

STUDY = """
[study]
question = "Is training together better than alone?"
scenario = "builtin"
seeds = [0, 1]
baseline = "alone"
[settings]
"federation.rounds" = 2
"train.steps-per-round" = 1
"evaluation.problems" = 24
"simulation.clients" = 1
"simulation.problems" = 60
[arms.together]
"simulation.clients" = 2
[arms.alone]
"""
CELLS = [f"{arm}/seed-{seed}" for arm in ("together", "alone") for seed in (0, 1)]


def journals(root):
    return {name: read_lines(root / "runs" / name / "journal.jsonl") for name in CELLS}


def events(journal):
    return [line["event"] for line in journal]


def wait_until(is_so, process, seconds=200):
    deadline = time.monotonic() + seconds
    while not is_so():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_study_killed_in_the_middle_goes_on_and_plays_nothing_twice(tmp_path, how):
    file, root = tmp_path / "mine.toml", tmp_path / "out" / "mine"
    file.write_text(STUDY)
    command = [sys.executable, "-m", "fedgrpo.common.cli.main", "study", str(file), "--out", str(tmp_path / "out")]
    command += ["--jobs=2", "--format=json"]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: sum("FINISHED" in events(j) for j in journals(root).values()) == 2, first)
    wait_until(
        lambda: any("COMMITTED" in events(j)[:4] and "FINISHED" not in events(j) for j in journals(root).values()),
        first,
    )
    first.send_signal(how)
    out, err = first.communicate(timeout=90)
    assert (first.returncode, out) == (130 if how == signal.SIGINT else -signal.SIGKILL, "")
    if how == signal.SIGINT:
        assert "Give the same command again to go on" in " ".join(err.split())
    before = {name: journal for name, journal in journals(root).items() if "FINISHED" in events(journal)}
    assert 2 <= len(before) < 4

    again = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    result = json.loads(again.stdout.splitlines()[-1])
    after = journals(root)
    assert {name: after[name] for name in before} == before
    for journal in after.values():
        assert [events(journal).count(e) for e in ("CREATED", "COMMITTED", "FINISHED")] == [1, 2, 1]
    # A killed study leaves its runs working, and the next one takes those that have ended in the meantime.
    (count,) = re.findall(r"(\d) of 4 runs were finished before", again.stderr)
    assert len(before) <= int(count) <= 4
    check(result, root)

    once_more = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(once_more.stdout.splitlines()[-1]) == result
    assert journals(root) == after


def check(result, root):
    """The result is what the run folders hold."""
    runs = {name: Run.read(root / "runs" / name) for name in CELLS}
    right = {}
    for name, run in runs.items():
        lines = read_lines(run.folder / "answers.jsonl")
        assert len({(x["round"], x["decoding"], x["client"]) for x in lines}) == len(lines)
        last = run.outcomes("sampled")
        assert sorted(last) == list(range(24))
        assert sum(last.values()) == run.after.total.correct
        right[name] = [float(last[i]) for i in range(24)]
    for arm in ("together", "alone"):
        row = result["arms"][arm]["rows"][0]
        assert row["accuracy"] == pytest.approx(np.mean([right[f"{arm}/seed-0"], right[f"{arm}/seed-1"]]), abs=1e-5)
    both = [np.array([right[f"{arm}/seed-{seed}"] for seed in (0, 1)]) for arm in ("together", "alone")]
    expected, told = paired_difference(*both), result["arms"]["together"]["against"][0]
    assert told["interval"] == pytest.approx([expected.low, expected.high], abs=1e-5)
    assert told["by_seed"] == pytest.approx(dict(zip("01", expected.by_seed, strict=True)), abs=1e-5)
    assert (
        result["arms"]["together"]["bytes_up"]
        == sum(line.bytes_up for name in ("together/seed-0", "together/seed-1") for line in runs[name].rounds) / 2
    )
    assert told["sentence"][1:] in (root / "table.md").read_text()
    assert result["versions"]["trl"]
