"""`fedgrpo simulate` as a person runs it: processes, workers, JSON, Ctrl-C and resume."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from checkout import GSM8K
from fedgrpo.common.adapter.peft_files import read_peft
from fedgrpo.common.errors import ConfigError
from fedgrpo.server.run.reader import Run
from fedgrpo.simulations.engine.runner import all_at_once, same_inputs, scenario

pytestmark = pytest.mark.e2e

SMALL = [
    "--rounds=3",
    "--clients=3",
    "--format=json",
    "--set=simulation.problems=120",
    "--set=evaluation.problems=90",
    "--set=evaluation.batch-size=90",
    "--set=grpo.learning-rate=0.008",
]


def fedgrpo(*words, check=True, timeout=240):
    command = [sys.executable, "-m", "fedgrpo.common.cli.main", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=check, timeout=timeout)


def result(done):
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One small run with two worker processes, shared by the tests that only look at it."""
    out = tmp_path_factory.mktemp("runs")
    return fedgrpo("simulate", *SMALL, "--out", out, "--run", "two-workers", "--workers", 2), out


def test_the_policy_learns_from_reward_alone(finished):
    done, _ = finished
    found = result(done)
    low, high = found["accuracy"]["interval"]
    assert 0.05 < low < found["accuracy"]["gain"] < high
    assert found["reward"]["last"] > found["reward"]["first"]
    assert len(done.stdout.splitlines()) == 1
    assert "round 3 committed: 3 of 3 updates" in done.stderr
    assert "Warning" not in done.stderr


def test_the_result_has_the_promised_fields(finished):
    found = result(finished[0])
    assert {
        "run_dir",
        "rounds",
        "clients",
        "adapter_sha256",
        "accuracy",
        "reward",
        "seconds",
        "bytes_up",
        "bytes_down",
        "void_rounds",
    } <= set(found)
    assert {"before", "after", "interval", "by_class"} <= set(found["accuracy"])
    assert (found["rounds"], found["clients"], found["void_rounds"]) == (3, 3, 0)
    assert {"operator=plus", "steps=1", "style=reasoned"} <= set(found["accuracy"]["by_class"])


def test_the_run_folder_is_whole(finished):
    folder = Path(result(finished[0])["run_dir"])
    assert {p.name for p in folder.iterdir()} == {
        "config.resolved.toml",
        "journal.jsonl",
        "metrics.jsonl",
        "samples.jsonl",
        "answers.jsonl",
        "inputs.sha256",
        ".lock",
        "adapters",
        "report.html",
    }
    assert [p.name for p in sorted((folder / "adapters").iterdir())] == ["0000", "0001", "0002", "0003"]
    assert read_peft(folder / "adapters" / "0003").sha256 == result(finished[0])["adapter_sha256"]
    page = (folder / "report.html").read_text()
    assert page.count("<svg") >= 8
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    assert "<script" not in page


def test_one_worker_gives_the_same_adapter_bit_for_bit(finished):
    done, out = finished
    alone = fedgrpo("simulate", *SMALL, "--out", out, "--run", "one-worker", "--workers", 1)
    assert result(alone)["adapter_sha256"] == result(done)["adapter_sha256"]


def test_an_interrupted_run_says_how_to_go_on_and_ends_as_if_it_never_was(finished):
    done, out = finished
    folder = out / "interrupted"
    command = [
        sys.executable,
        "-m",
        "fedgrpo.common.cli.main",
        "simulate",
        *SMALL,
        "--out",
        str(out),
        "--run",
        folder.name,
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    journal = folder / "journal.jsonl"
    deadline = time.monotonic() + 120
    while not (journal.exists() and "COMMITTED" in journal.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
    out_text, err_text = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out_text == ""
    assert f"fedgrpo simulate --resume {folder}" in " ".join(err_text.split())
    assert "Traceback" not in err_text
    resumed = fedgrpo("simulate", "--resume", folder, "--format=json")
    assert result(resumed)["adapter_sha256"] == result(done)["adapter_sha256"]
    assert result(resumed)["accuracy"] == result(done)["accuracy"]


def test_a_resume_with_other_data_or_rewards_is_refused(finished, tmp_path):
    own = tmp_path / "own.py"
    own.write_text("def one(completions, **kwargs):\n    return [1.0] * len(completions)\n")
    config = all_at_once(scenario("builtin")).with_values(
        {"output.dir": str(tmp_path), "output.run": "r", "simulation.rewards": f"gsm8k,{own}"}
    )
    same_inputs(config)
    same_inputs(config)
    own.write_text(own.read_text().replace("1.0", "2.0"))
    with pytest.raises(ConfigError, match="The data or a reward file has changed"):
        same_inputs(config)


def test_a_run_and_one_of_its_adapters_can_be_evaluated(finished):
    folder = Path(result(finished[0])["run_dir"])
    last = result(fedgrpo("evaluate", folder, "--format=json", "--limit=60"))
    first = result(fedgrpo("evaluate", folder / "adapters" / "0000", "--format=json", "--limit=60"))
    assert last["adapter_sha256"] == result(finished[0])["adapter_sha256"]
    assert last["sampled"]["strict"]["interval"][0] > 0
    assert first["sampled"]["strict"]["gain"] == 0
    assert first["greedy"]["tokens"]["base"] == first["greedy"]["tokens"]["adapter"]


@pytest.mark.skipif(not GSM8K.is_dir(), reason="the real GSM8K lies beside the checkout only on our own machines")
def test_gsm8k_runs_end_to_end_on_real_problems(tmp_path):
    done = fedgrpo(
        "simulate",
        "gsm8k",
        "--data",
        GSM8K,
        "--model=builtin",
        "--rounds=1",
        "--clients=2",
        "--out",
        tmp_path,
        "--format=json",
        "--partition=difficulty",
        "--set=model.dtype=float32",
        "--set=evaluation.problems=8",
        "--set=train.steps-per-round=1",
        "--set=grpo.max-completion-length=16",
    )
    found = result(done)
    assert found["rounds"] == 1
    assert found["accuracy"]["problems"] == 8


@pytest.mark.deployment
@pytest.mark.timeout(900)
def test_an_adapter_of_real_size_passes_the_whole_deployment(tmp_path):
    """22 MB, as SmolLM2-135M has at rank 18: more than one request may have at the gateway, in pieces that pass."""
    settings = {
        "federation.min-clients": 1,
        "adapter.rank": 2300,
        "adapter.alpha": 2300,
        "aggregation.method": "naive",
        "train.steps-per-round": 1,
        "simulation.problems": 60,
        "evaluation.problems": 4,
        "evaluation.every": 0,
    }
    words = [f"--set={name}={value}" for name, value in settings.items()]
    engine = ("--engine", "superlink", "--clients=1", "--rounds=1", "--out", tmp_path, "--run", "big")
    fedgrpo("simulate", "builtin", *engine, *words, timeout=800)
    adapter = read_peft(tmp_path / "big" / "adapters" / "0001")
    assert 4 * adapter.schema.size > 20e6
    (committed,) = Run.read(tmp_path / "big").rounds
    (client,) = committed.clients.values()
    assert committed.bytes_down > 20e6
    assert client.norm > 0
