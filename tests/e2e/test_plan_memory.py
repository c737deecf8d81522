"""The memory model against what a process that trains really takes (docs/planning.md has the figures)."""

import json
import os
import subprocess
import sys

import pytest
from checkout import ROOT

pytestmark = pytest.mark.e2e

PROBE = ROOT / "tests" / "helpers" / "plan_probe.py"
QUIET = {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
"""Memory that is freed goes back at once, so that the most a process has is the most it needs."""
LONG = ["grpo.per-device-train-batch-size=8", "grpo.max-completion-length=192"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("vocabulary", "settings"),
    [
        ("4096", LONG),
        ("4096", [*LONG, "backend.gradient-checkpointing=on"]),
        ("4096", [*LONG, "aggregation.method=ffa"]),
        ("32768", ["grpo.per-device-train-batch-size=4", "grpo.max-completion-length=96"]),
        ("4096", ["grpo.per-device-train-batch-size=4", "grpo.gradient-accumulation-steps=16", *LONG[1:]]),
    ],
)
def test_a_step_takes_the_memory_that_was_planned(tmp_path, vocabulary, settings):
    command = [sys.executable, str(PROBE), str(tmp_path), vocabulary, *settings]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **QUIET})
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert 0.85 <= found["planned"] / found["measured"] <= 1.2
