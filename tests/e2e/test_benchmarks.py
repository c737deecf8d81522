"""Every script behind a published figure runs: `--quick`, with one line of JSON at the end."""

import json
import os
import subprocess
import sys

import pytest
from checkout import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]
SCRIPTS = sorted((ROOT / "benchmarks").glob("*.py"))
NEEDS_VLLM = {"samplers"}


LONG = {"golden", "faults", "real_model", "canaries", "cpu_speed", "round_overhead", "warm_rounds"}
"""Most of a minute and more each: `pytest -m slow tests/e2e/test_benchmarks.py`."""


@pytest.mark.parametrize(
    "script",
    [pytest.param(path, marks=pytest.mark.slow) if path.stem in LONG else path for path in SCRIPTS],
    ids=lambda script: script.stem,
)
def test_a_benchmark_runs_and_ends_with_its_figures(script, tmp_path):
    if script.stem in NEEDS_VLLM and "FEDGRPO_VLLM_PYTHON" not in os.environ:
        pytest.skip("needs FEDGRPO_VLLM_PYTHON, the Python of an environment with vLLM (docs/backends.md)")
    done = subprocess.run([sys.executable, str(script), "--quick"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    figures = json.loads(done.stdout.splitlines()[-1])
    assert set(figures) == {"name", "ratios", "figures"}
    assert figures["name"] == script.stem
    assert figures["ratios"] or figures["figures"]


def test_every_figure_s_script_is_one_that_is_run_here():
    assert {script.stem for script in SCRIPTS} >= {"aggregation", "learning", "round_overhead", "secagg", "server_load"}
