"""What a role's environment leaves out is said in one sentence that names the extra, never with a traceback."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
from fedgrpo.common.cli.extras import EXTRAS, missing_extra
from fedgrpo.common.errors import ConfigError

pytestmark = pytest.mark.e2e

WITHOUT = (
    "import sys; sys.modules |= dict.fromkeys(sys.argv.pop().split(','));"
    "from fedgrpo.common.cli.main import main; main()"
)


def fedgrpo_without(libraries, *words, cwd):
    """Run a command where some libraries cannot be imported."""
    command = [sys.executable, "-c", WITHOUT, *map(str, words), ",".join(libraries)]
    env = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=env, timeout=120)


@pytest.mark.parametrize(
    ("words", "without", "extra"),
    [
        (("simulate",), "flwr", "simulation"),
        (("study", "nothing.toml"), "flwr", "simulation"),
        (("plan",), "flwr", "simulation"),
        (("server", "init", "federation"), "flwr", "server"),
        (("keys", "register", "federation", "a.key.pub"), "flwr", "server"),
        (("client", "egress", "clinic.toml"), "flwr", "node"),
        (("client", "check", "clinic.toml"), "torch", "learner"),
        (("sft", "shown.jsonl", "--model", "builtin", "--out", "made"), "torch", "learner"),
        (("evaluate", "--model", "builtin", "--problems", "shown.jsonl"), "torch", "learner"),
    ],
)
def test_a_command_that_needs_another_extra_says_which(tmp_path, words, without, extra):
    (tmp_path / "train.jsonl").write_text('{"question": "1+1?", "answer": "2"}\n' * 40)
    (tmp_path / "shown.jsonl").write_text('{"question": "1+1?", "answer": "2", "completion": "2"}\n')
    if "clinic.toml" in words:
        made = fedgrpo_without([], "client", "init", "clinic.toml", "--data", "train.jsonl", cwd=tmp_path)
        assert made.returncode == 0, made.stderr
    done = fedgrpo_without([without], *words, cwd=tmp_path)
    assert done.returncode == 1
    said = f"needs {without}, which is not installed here. Install the extra: pip install 'fedgrpo[{extra}]'."
    assert said in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr


@pytest.mark.deployment
def test_a_check_in_a_learner_without_flower_tries_all_but_the_messages(tmp_path):
    rows = ({"question": f"{n} + {n}?", "answer": str(2 * n)} for n in range(200))
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    init = ("client", "init", "a.toml", "--data", "train.jsonl", "--privacy", "none")
    assert fedgrpo_without([], *init, cwd=tmp_path).returncode == 0
    words = ("client", "check", "a.toml", "--samples", "1", "--format", "json")
    done = fedgrpo_without(["flwr"], *words, cwd=tmp_path)
    checked = json.loads(done.stdout.splitlines()[-1])
    assert "not tried: flwr is not installed" in checked["steps"]["messages"]
    assert {"data", "rewards", "base model", "machine", "adapter", "policy"} <= checked["steps"].keys()
    assert (len(checked["rewards"]), checked["leaving"]) == (1, {})


def test_the_sentence_is_not_for_bugs():
    """A module that no extra brings is missing because of us: the traceback must be seen."""
    assert missing_extra("fedgrpo.common.nothing", ["simulate"]) is None
    assert missing_extra(None, []) is None
    assert all(find_spec(name) for name, extra in EXTRAS.items() if extra in ("learner", "report"))


def test_a_node_without_its_command_names_the_extra(monkeypatch, tmp_path):
    from fedgrpo.common.cli import supervisor

    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(ConfigError, match=r"pip install 'fedgrpo\[node\]'"):
        supervisor.tool("flower-supernode")
