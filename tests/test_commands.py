"""The command line as a person meets it: what is wrong is said in one message, before a model is loaded."""

import json
import logging
import os
import re
import subprocess
import sys
from collections import Counter

import pytest
from fedgrpo.simulations.engine.runner import SCENARIOS
from fedgrpo.simulations.engine.simulated_clients import BUILTIN_POLICY

FRAME = re.compile(r"[\s█─-╿]")

GOOD_LINE = '{"question": "1+1?", "answer": "1+1=<<1+1=2>>2\\n#### 2"}\n'


def gsm8k(folder, train=GOOD_LINE * 40, test=GOOD_LINE * 4):
    folder.mkdir()
    (folder / "train.jsonl").write_text(train)
    (folder / "test.jsonl").write_text(test)
    return folder


def test_help_shows_the_commands_and_each_has_examples(run):
    status, out, _ = run("--help")
    assert status == 0
    for command in ("simulate", "partition", "evaluate", "chat", "export", "report", "study", "sft", "finetune"):
        assert command in out
        assert "Example" in run(command, "--help")[1]


def test_every_setting_can_be_listed(run):
    status, out, _ = run("simulate", "gsm8k", "--list-settings", "--format", "json")
    assert status == 0
    assert json.loads(out)["grpo.max-grad-norm"] == 0.1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["simulate", "nothing"], "There is no scenario 'nothing'. Known are builtin, gsm8k"),
        (["simulate", "missing.toml"], "Cannot read the scenario missing.toml: No such file"),
        (
            ["simulate", "gsm8k", "--data", "nowhere", "--model", "builtin"],
            "must be a folder with train.jsonl and test.jsonl",
        ),
        (["simulate", "--set", "grpo.num-generation=4"], "Did you mean grpo.num-generations?"),
        (["simulate", "--set", "grpo.num-generations=1"], "always 0 in a group of one"),
        (["simulate", "--set", "adapter.rank=0"], "no parameters to train"),
        (["simulate", "--set", "beta"], "not of the form section.key=value"),
        (["simulate", "--set", "output.dir=x"], "use --out and --run"),
        (["simulate", "--model", "/no/such/model"], "There is no model folder /no/such/model"),
        (["simulate", "--model", "."], "is not a model folder: config.json is missing"),
        (["simulate", "--rewards", "corectness"], "There is no reward 'corectness'"),
        (["simulate", "--rewards", "gsm8k;think"], "2 sets for 4 clients"),
        (["simulate", "--clients", "0"], "simulation.clients is 0"),
        (["simulate", "--rounds", "-1"], "federation.rounds is -1"),
        (["simulate", "--partition", "odd"], "must be one of: iid, dirichlet"),
        (["simulate", "--clients", "900"], "too few for 900 clients"),
        (["simulate", "--run", "../x"], "must be a plain folder name"),
        (["simulate", "--resume", "nothing"], "is not a run folder"),
        (["simulate", "--resume", "nothing", "--rounds", "9"], "of the options only --workers may change"),
        (["simulate", "--set", "simulation.clients=many"], "simulation.clients is 'many', but must be a whole number"),
        (["simulate", "--set", "evaluation.problems=3"], "3 held-out problems are too few for 4 clients"),
        (
            ["simulate", "gsm8k", "--model", "builtin", "--data", "nowhere"],
            "must be a folder with train.jsonl and test.jsonl",
        ),
        (["finetune", "--central", "--rounds", "0"], "federation.rounds is 0"),
        (["simulate", "--data", "nowhere"], "this scenario generates its problems"),
        (["evaluate", str(BUILTIN_POLICY)], "is a model, not an adapter or a run. Give it as --model"),
        (["evaluate", "nothing"], "neither a run folder nor one of its adapters"),
        (["evaluate"], "Give a run folder, an adapter, or a model"),
        (["evaluate", "--model", "builtin", "--problems", "nowhere.jsonl"], "There is no data file"),
        (
            ["evaluate", "--model", "builtin", "--system", "xlm"],
            "'xlm' is neither one of none, xml, think, hash nor a text file",
        ),
        (["evaluate", "--model", "builtin", "--rewards", "corectness"], "Did you mean correctness?"),
        (["evaluate", "--model", "builtin", "--samples", "4", "--pass-at", "1,8"], "from 1 to --samples, which is 4"),
        *(
            (["evaluate", "--model", "builtin", "--pass-at", text], "must be whole numbers with commas between them")
            for text in ("\u00b2", "1,,1", ",", "one", "1.0", "-1", "9" * 5000)
        ),
        (["evaluate", "--model", "builtin", "--pass-at", "0"], "--pass-at has 0, but its numbers must be from 1"),
        (["evaluate", "--model", "builtin", "--temperature", "0"], "use --samples 0"),
        (["evaluate", "--model", "builtin", "--temperature", "nan"], "temperature is nan, but must be at least 0"),
        (["evaluate", "--model", "builtin", "--classes", "topics"], "'topics', but the problems only have the columns"),
        (["evaluate", "--model", "builtin", "--problems", "x.jsonl", "--classes", "image"], "--classes names 'image'"),
        *(
            (["partition", "builtin", "--plot", name], f"--plot is {name}, but a picture is written as one of .png")
            for name in ("x.foo", "noext", ".", "x.png.txt")
        ),
        (["partition", "builtin", "--plot", "nowhere/x.png"], "No such file"),
        *(
            (["plan", "builtin", "--gpu", size], "is not the size of a GPU's memory. Write it as in 24GB")
            for size in ("\u00b2GB", "0", "24XB", "9" * 60 + "GB", "9" * 400 + "GB", "-1GB")
        ),
        *(
            (["plan", "builtin", "--cpu", "--tokens-per-second", speed], f"--tokens-per-second is {speed}, but must be")
            for speed in ("nan", "inf")
        ),
        (["chat", "nothing"], "neither a run folder nor one of its adapters"),
        (["report", "."], "is not a run folder"),
    ],
)
def test_bad_input_ends_with_one_message_and_leaves_nothing_behind(run, tmp_path, words, says):
    status, out, err = run(*words)
    assert status == 1
    assert says in " ".join(err.split())
    assert "Traceback" not in err
    assert out == ""
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return [1 / 0]", "raised ZeroDivisionError"),
        ("return [float('nan')] * len(completions)", "returned nan for completion 0"),
        ("return [1.0]", "returned 1 rewards for 4 completions"),
    ],
)
def test_a_reward_file_that_fails_is_found_before_a_model_is_loaded(run, tmp_path, body, says):
    (tmp_path / "mine.py").write_text(f"def mine(completions, **kwargs):\n    {body}\n")
    status, _, err = run("simulate", "--rewards", "gsm8k;gsm8k;gsm8k;mine.py")
    assert status == 1
    assert says in err
    assert "mine.py" in err


def test_a_malformed_line_is_named_by_its_number(run, tmp_path):
    folder = gsm8k(tmp_path / "data", train=GOOD_LINE * 41 + '{"question": \n')
    status, _, err = run("simulate", "gsm8k", "--data", folder, "--model", "builtin")
    assert status == 1
    assert "train.jsonl, line 42 is not JSON" in " ".join(err.split())


def test_a_split_is_previewed_as_table_numbers_and_picture(run, tmp_path):
    folder = gsm8k(tmp_path / "data", train=GOOD_LINE * 40, test=GOOD_LINE * 5)
    status, out, _ = run("partition", "gsm8k", "--data", folder, "--format", "json", "--clients", "5")
    found = json.loads(out.splitlines()[-1])
    assert status == 0
    assert [client["problems"] for client in found["clients"]] == [8] * 5
    assert (tmp_path / "partition.png").read_bytes().startswith(b"\x89PNG")
    assert "client-3" in run("partition", "builtin")[1]


def test_the_model_folder_can_be_a_path(run):
    status, out, _ = run("simulate", "--model", BUILTIN_POLICY, "--list-settings", "--format", "json")
    assert status == 0
    assert json.loads(out)["model.name"] == str(BUILTIN_POLICY)


TOOLS = '''def add(a: int, b: int) -> int:
    """Add.

    Args:
        a: a number.
        b: a number.
    """
    return a + b
'''


@pytest.fixture
def scenario_file(tmp_path):
    """A copy of gsm8k.toml in a folder with its data and rewards beside it, all by relative paths."""
    place = tmp_path / "experiment"
    place.mkdir()
    gsm8k(place / "problems")
    (place / "mine.py").write_text("def mine(completions, **kwargs):\n    return [1.0] * len(completions)\n")
    (place / "tools.py").write_text(
        'def add(a: int, b: int) -> int:\n    """Add.\n\n    Args:\n        a: x\n        b: y\n    """\n'
    )
    text = (SCENARIOS / "gsm8k.toml").read_text().replace("Qwen/Qwen2.5-0.5B-Instruct", "builtin")
    text = text.replace(
        'rewards = "gsm8k"', 'rewards = "gsm8k,mine.py:mine=0.5"\ndata = "problems"\ntools = "tools.py"'
    )
    (place / "mine.toml").write_text(text)
    return place / "mine.toml"


@pytest.mark.parametrize("somewhere", ["", "elsewhere"])
def test_a_copied_scenario_file_works_from_every_directory(run, tmp_path, monkeypatch, scenario_file, somewhere):
    elsewhere = tmp_path / somewhere
    elsewhere.mkdir(exist_ok=True)
    monkeypatch.chdir(elsewhere)
    file = os.path.relpath(scenario_file, elsewhere)
    status, out, _ = run("simulate", file, "--list-settings", "--format", "json")
    settings, place = json.loads(out), scenario_file.parent
    assert status == 0
    assert settings["simulation.data"] == str(place / "problems")
    assert settings["simulation.rewards"] == f"gsm8k,{place}/mine.py:mine=0.5"
    assert settings["simulation.tools"] == f"{place}/tools.py"
    status, out, err = run("partition", file, "--format", "json")
    assert status == 0, err
    assert [client["problems"] for client in json.loads(out)["clients"]] == [10] * 4


def test_a_copy_of_a_shipped_scenario_is_the_same_scenario(run, tmp_path):
    (tmp_path / "mine.toml").write_text((SCENARIOS / "builtin.toml").read_text())
    copied, shipped = (
        json.loads(run("simulate", name, "--list-settings", "--format", "json")[1]) for name in ("mine.toml", "builtin")
    )
    assert {**copied, "output.run": ""} == {**shipped, "output.run": ""}


def test_the_hub_library_prints_errors_alone():
    """Else it prints each of its six tries before our message says what to do."""
    program = "import fedgrpo.common.cli.main; from huggingface_hub.utils.logging import get_verbosity as v; print(v())"
    quiet = {key: value for key, value in os.environ.items() if key != "HF_HUB_VERBOSITY"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=quiet, check=True)
    assert int(done.stdout) == logging.ERROR


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["evaluate", "--model", "Qwen/Qwen2.5-0.5B-Instruct"], "Cannot get the model Qwen/Qwen2.5-0.5B-Instruct"),
        (["partition", "gsm8k"], "Cannot load openai/gsm8k from the Hub"),
    ],
)
def test_an_unreachable_hub_is_one_message(tmp_path, words, says):
    command = [sys.executable, "-c", "from fedgrpo.common.cli.main import main; main()", *words]
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=200)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Retrying" not in done.stderr
    assert "thrown while requesting" not in done.stderr
    assert len(done.stderr.splitlines()) <= 2


@pytest.mark.parametrize(
    "words",
    [
        ["doctor", "--offline"],
        ["plan", "gsm8k", "--gpu", "3GB"],
        ["partition", "builtin", "--partition", "dirichlet"],
        ["rewards", "list"],
        ["rewards", "score", "gsm8k", "--completion", "<answer>42</answer>", "--answer", "42"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
@pytest.mark.parametrize("columns", [80, 60, 40])
def test_no_table_loses_a_character_in_a_narrow_terminal(run, monkeypatch, words, columns):
    monkeypatch.setenv("COLUMNS", "400")
    unsteady = r"\d" if words[0] == "doctor" else "^$"  # the time, and how full the disk is
    whole = Counter(re.sub(unsteady, "", FRAME.sub("", run(*words)[1])))
    monkeypatch.setenv("COLUMNS", str(columns))
    narrow = run(*words)[1]
    assert not whole - Counter(FRAME.sub("", narrow))
    assert "…" not in narrow
