"""A reward that can be hacked, on a real run: the tripwires say so while it trains."""

import json
import subprocess
import sys

import pytest

SEVEN = '''
def always_seven(completions, **kwargs):
    """The answer 7 earns, whatever was asked."""
    return [1.0 if "<answer>\\n7\\n</answer>" in c[0]["content"] else 0.0 for c in completions]
'''


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_reward_for_one_answer_is_found_out(tmp_path):
    (tmp_path / "seven.py").write_text(SEVEN)
    command = [sys.executable, "-m", "fedgrpo.common.cli", "simulate", "--clients=2", "--rounds=12", "--format=json"]
    settings = {"grpo.learning-rate": 0.008, "evaluation.every": 6, "evaluation.problems": 200}
    command += [f"--set={key}={value}" for key, value in settings.items()]
    done = subprocess.run(
        [*command, "--rewards", "seven.py", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        timeout=900,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    tripped = {warning["tripwire"] for warning in found["warnings"]}
    assert {"repeated-answer", "reward-without-accuracy"} <= tripped
    assert found["reward"]["last"] > 0.5 > found["reward"]["first"]
    assert "WARNING, repeated-answer: client-" in done.stderr
