"""The Python API: what a notebook does, with the checks of the command."""

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from fedgrpo.common.errors import ConfigError, RewardError, RunError
from fedgrpo.common.settings.run_config import RunConfig
from fedgrpo.server.run.layout import RunFolder
from fedgrpo.simulations.commands import new_run
from fedgrpo.simulations.engine import runner, superlink
from fedgrpo.simulations.engine.inline_rewards import write_inline
from peft import PeftConfig

import fedgrpo

SMALL = {
    "evaluation.problems": 12,
    "train.steps-per-round": 1,
    "grpo.num-generations": 4,
    "grpo.per-device-train-batch-size": 8,
}
THREE = 3


def few_letters(completions, **columns):
    """Uses a module of its own, as functions in a notebook do."""
    return [-0.01 * math.sqrt(len(c[0]["content"])) for c in completions]


import math  # noqa: E402, isort: skip  (the function above finds it when it is called)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    rewards = [few_letters, "correctness"]
    return fedgrpo.simulate(
        "builtin", clients=2, rounds=1, rewards=rewards, settings=SMALL, out=out, name="api", progress=False
    )


@pytest.mark.e2e
def test_the_snippet_of_the_readme_works(run, tmp_path):
    """Two clients where the scenario waits for four to start: the command's adjustment, not ten minutes of silence."""
    assert run.accuracy.problems == 12
    assert run.accuracy.interval[0] <= run.accuracy.gain <= run.accuracy.interval[1]
    assert f"{run.accuracy.after:.1%}" in str(run.accuracy)
    assert [(row["round"], row["client"]) for row in run.metrics] == [(1, "client-0"), (1, "client-1")]
    assert all(row["reward/few-letters/mean"] < 0 for row in run.metrics)
    folder = run.adapter.to_peft(tmp_path / "adapter")
    assert PeftConfig.from_pretrained(str(folder)).r == run.config.adapter.rank
    assert run.report().read_text().lower().startswith("<!doctype html>")
    again = fedgrpo.Run(run.folder)
    assert again.adapter.sha256 == run.adapter.sha256 == run.result()["adapter_sha256"]
    assert "1 of 1 rounds" in repr(again)


@pytest.mark.e2e
def test_without_progress_nothing_is_printed(tmp_path):
    code = f"import fedgrpo; fedgrpo.simulate(clients=1, rounds=1, settings={SMALL!r}, out='.', progress=False)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.e2e
def test_an_own_reward_is_kept_with_the_run_as_a_file(run):
    assert "import math as math" in (run.folder / "rewards" / "few_letters.py").read_text()
    assert run.config.simulation.rewards == f"{run.folder}/rewards/few_letters.py:few_letters,correctness"


@pytest.mark.e2e
def test_an_adapter_is_evaluated_on_rows(run):
    rows = [{"question": "Ann has 3 eggs and buys 4. How many?", "answer": "7", "topic": "shop"}] * 2
    result = fedgrpo.evaluate(run, problems=rows, classes=["topic"]).as_json()
    assert result["greedy"]["strict"]["problems"] == 2
    assert "topic=shop" in result["greedy"]["by_class"]
    assert result["adapter_sha256"] == run.adapter.sha256


@pytest.mark.e2e
def test_an_adapter_never_overwrites_files(run, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not an empty folder"):
        run.adapter.to_peft(tmp_path)


def uses_another_name(completions, **columns):
    return [THREE] * len(completions)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"scenario": "nothing"}, ConfigError, "There is no scenario 'nothing'"),
        ({"settings": {"grpo.betta": 1}}, ConfigError, "Did you mean grpo.beta?"),
        ({"rewards": lambda completions, **columns: [0.0]}, ConfigError, "not a function written with def"),
        ({"rewards": [print]}, ConfigError, "print is not a function written with def"),
        ({"rewards": [uses_another_name]}, ConfigError, "uses THREE, which is defined outside of it"),
        ({"rewards": [few_letters, ["correctness"]]}, ConfigError, "mixes reward functions and lists"),
        ({"rewards": []}, ConfigError, "rewards is empty"),
        ({"rewards": "corectness"}, ConfigError, "Did you mean correctness?"),
        ({"resume": "runs/x", "clients": 3}, ConfigError, "only workers may be given"),
        ({"resume": "nowhere"}, ConfigError, "nowhere"),
    ],
)
def test_what_is_wrong_is_found_before_a_model_is_loaded(tmp_path, options, error, says):
    with pytest.raises(error, match=says):
        fedgrpo.simulate(**{"out": tmp_path, **options})


def returns_too_few(completions, **columns):
    return [1.0]


def test_a_reward_that_fails_is_named(tmp_path):
    with pytest.raises(RewardError, match="The reward returns-too-few .* returned 1 rewards for 4 completions"):
        fedgrpo.simulate(rewards=[returns_too_few], out=tmp_path, progress=False)


def test_two_functions_of_one_name_are_refused(tmp_path):
    def brief(completions, **columns):
        return [0.0] * len(completions)

    write_inline(brief, tmp_path)

    def brief(completions, **columns):
        return [1.0] * len(completions)

    with pytest.raises(ConfigError, match="Two different rewards are called brief"):
        write_inline(brief, tmp_path)


def test_each_client_may_have_rewards_of_its_own(tmp_path):
    from fedgrpo.simulations.api.simulation import _specification

    text = _specification([[few_letters], ["correctness", "strict-format=0.5"]], tmp_path)
    assert text == f"{tmp_path}/few_letters.py:few_letters;correctness,strict-format=0.5"


def test_importing_it_loads_nothing_heavy():
    code = "import sys, fedgrpo; print(len([m for m in sys.modules if m.split('.')[0] in ('numpy', 'torch', 'flwr')]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"


def test_its_version_is_the_distributions():
    assert fedgrpo.__version__ == metadata.version("fedgrpo")


def test_the_module_is_the_command():
    command = [sys.executable, "-m", "fedgrpo", "simulate", "--list-settings", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == fedgrpo.settings("builtin") | json.loads(done.stdout)
    assert set(dir(fedgrpo)) >= set(fedgrpo.__all__)
    with pytest.raises(AttributeError, match="It has Run, __version__, evaluate"):
        fedgrpo.simulat  # noqa: B018


@pytest.mark.parametrize("engine", [runner.run_simulation, superlink.run_loopback], ids=["processes", "superlink"])
def test_either_engine_checks_the_settings_itself_and_has_all_clients_join_first(tmp_path, engine, monkeypatch):
    place = {"output.dir": str(tmp_path), "output.run": "one", "simulation.clients": 2}
    config = RunConfig().with_values(place)
    with pytest.raises(ConfigError, match=r"missing\.py"):
        engine(config.with_values({"simulation.rewards": str(tmp_path / "missing.py")}))
    seen = []
    monkeypatch.setattr(runner, "check", seen.append)
    folder = tmp_path / "one"
    folder.mkdir(exist_ok=True)
    RunFolder(folder).inputs.write_text("other data")
    with pytest.raises(ConfigError, match="has changed since"):
        engine(config)
    assert [(c.federation.start_clients, c.federation.min_clients) for c in seen] == [(2, 2)]
    assert {path.name for path in folder.iterdir()} == {RunFolder(folder).inputs.name}


def test_the_command_and_python_make_the_same_settings(tmp_path, monkeypatch):
    begun = []

    def note(config):
        begun.append(config)
        raise RunError("noted")

    monkeypatch.setattr(runner, "run_simulation", note)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match="noted"):
        fedgrpo.simulate(clients=3, rounds=2, seed=5, central=True, out="there", name="x", progress=False)
    options = {"simulation.clients": 3, "federation.rounds": 2, "federation.seed": 5}
    assert begun == [new_run("builtin", options, [], out=Path("there"), name="x", kind="", central=True)]
