"""`fedgrpo rewards`, and the examples that come along."""

import json
import subprocess
import sys

import pytest
from checkout import ROOT
from fedgrpo.client.learner import sandbox
from fedgrpo.client.learner.rewards import FUNCTIONS, SETS
from fedgrpo.common.cli import main as cli

EXAMPLES = ROOT / "examples" / "rewards"
NEEDS = {"expressions": "math_verify", "extraction": "jsonschema"}


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run `fedgrpo rewards ...` in this process: (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        monkeypatch.setattr("sys.argv", ["fedgrpo", "rewards", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        return caught.value.code, out, " ".join(err.split())

    return call


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.jsonl")), ids=lambda path: path.stem)
def test_an_example_pays_what_it_says(run, path):
    if path.stem in NEEDS:
        pytest.importorskip(NEEDS[path.stem], reason="pip install 'fedgrpo[rewards]'")
    if path.stem == "code" and sandbox.level().startswith("none"):
        pytest.skip(f"no sandbox here, {sandbox.level()}")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    own = path.with_suffix(".py")
    spec = own if own.exists() else ",".join(rows[0]["paid"])
    status, out, _ = run("score", spec, "--data", path, "--format", "json")
    found = json.loads(out.splitlines()[-1])
    assert status == 0
    for row, paid in zip(rows, found["rows"], strict=True):
        total = paid.pop("total")
        assert paid == pytest.approx(row["paid"])
        assert total == pytest.approx(sum(value for value in paid.values() if value is not None))


def test_there_is_an_example_of_each_kind_of_task():
    stems = {path.stem for path in EXAMPLES.glob("*.jsonl")}
    assert stems == {"triage", "word_problems", "expressions", "extraction", "choice", "citations", "code"}


WITH_PYTEST = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mine.py"]
WITHOUT = ["-c", "import sys, runpy; sys.modules['pytest'] = None; runpy.run_path('test_mine.py', run_name='__main__')"]


@pytest.mark.e2e
@pytest.mark.parametrize("runner", [WITH_PYTEST, WITHOUT], ids=["pytest", "python alone"])
def test_a_new_file_passes_its_test_as_written_and_fails_it_when_spoiled(run, tmp_path, runner):
    status, out, _ = run("new", "mine.py", "--format", "json")
    assert status == 0
    assert json.loads(out) == {"file": "mine.py", "test": "test_mine.py", "use": "mine.py:answer_in_last_line"}
    command = [sys.executable, *runner]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout
    mine = tmp_path / "mine.py"
    mine.write_text(mine.read_text().replace("[1.0 if", "[0.5 if"))
    assert subprocess.run(command, capture_output=True, cwd=tmp_path, check=False).returncode == 1
    assert run("score", "mine.py", "--completion", "so 42", "--answer", "42", "--format", "json")[0] == 0


def test_a_missing_reference_answer_is_said_where_a_reward_compares_with_one(run):
    assert "1 of 1 completions have no reference answer" in run("score", "gsm8k", "--completion", "42")[2]
    assert "correctness may need" in run("score", "gsm8k", "--completion", "42")[2]
    assert "no reference answer" not in run("score", "guards", "--completion", "42")[2]
    assert "no reference answer" not in run("score", "gsm8k", "--completion", "42", "--answer", "42")[2]


def test_a_completion_is_shown_with_its_lines(run):
    out = run("score", "guards", "--completion", "one\ntwo\x1b[31m")[1]
    assert "one" in [line.strip() for line in out.splitlines()]
    assert "\x1b" not in out


def test_a_completion_is_scored_on_the_command_line(run):
    status, out, _ = run("score", "qwen14b-weighted", "--completion", "<answer>42</answer>!!", "--answer", "42")
    assert status == 0
    assert "correctness" in out
    assert "-0.002" in out
    schema = 'schema={"required": ["age"]}'
    pytest.importorskip("jsonschema", reason="pip install 'fedgrpo[rewards]'")
    out = run("score", "json-schema", "--completion", '{"age": 4}', "--column", schema, "--format", "json")[1]
    assert json.loads(out)["rows"] == [{"json-schema": 1.0, "total": 1.0}]


def test_a_reward_that_does_not_apply_is_shown_as_left_out(run):
    out = run("score", "guards", "--completion", "x")[1]
    assert "left out" in out


def test_all_built_in_rewards_are_listed_with_what_they_pay(run):
    out = run("list", "--format", "json")[1]
    found = json.loads(out)
    assert found["functions"].keys() == FUNCTIONS.keys()
    assert found["sets"] == SETS
    assert all(found["functions"].values())
    assert "#### " in run("list", "hash-correctness")[1]
    assert "truncation-penalty" in run("list", "guards")[1]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["new", "my-reward.py"], "must be called like a Python module"),
        (["new", "reward.txt"], "must be called like a Python module"),
        (["score", "gsm8k"], "Give --completion, or --data"),
        (["score", "gsm8k", "--completion", "x", "--data", "x.jsonl"], "Give --completion, or --data"),
        (["score", "gsm8k", "--data", "none.jsonl"], "Cannot read none.jsonl"),
        (["score", "gsm8", "--completion", "x"], "Did you mean gsm8k?"),
        (["score", "gsm8k", "--completion", "x", "--column", "a"], "--column a is not of the form NAME=VALUE"),
        (["score", "gsm8k", "--data", "/dev/null"], "/dev/null holds no completions"),
        (["score", "json-schema", "--completion", "{}"], "needs a column 'schema'"),
        (["score", "multiple-choice", "--completion", "A", "--answer", "x"], "needs a letter from A to J"),
        (["list", "corectness"], "Did you mean correctness?"),
    ],
)
def test_bad_input_ends_with_one_message(run, words, says):
    status, out, err = run(*words)
    assert status == 1
    assert says in err
    assert out == ""
    assert "Traceback" not in err


def test_nothing_is_written_over(run, tmp_path):
    (tmp_path / "test_mine.py").write_text("kept")
    assert "test_mine.py is there already. Nothing was written" in run("new", "mine.py")[2]
    assert not (tmp_path / "mine.py").exists()


def test_a_line_without_a_completion_is_named(run, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"completion": "x"}\n{"answer": "4"}\n')
    assert "rows.jsonl, line 2 has no text in 'completion'" in run("score", "gsm8k", "--data", "rows.jsonl")[2]


def test_a_whole_number_as_the_answer_is_read_as_training_reads_it(run, tmp_path):
    rows = [{"answer": 4}, {"answer": 4.0}, {"answer": "4"}]
    lines = [json.dumps({"completion": "<answer>4</answer>", **row}) for row in rows]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    out = run("score", "correctness,integer,number-present", "--data", "rows.jsonl", "--format", "json")[1]
    assert [row["correctness"] for row in json.loads(out)["rows"]] == [2.0] * 3
    (tmp_path / "rows.jsonl").write_text('{"completion": "x", "answer": null, "truncated": false}\n')
    status, out, err = run("score", "correctness,truncation-penalty", "--data", "rows.jsonl", "--format", "json")
    assert (status, json.loads(out)["rows"][0]["truncation-penalty"]) == (0, 0.0)
    assert "1 of 1 completions have no reference answer" in err


def test_what_a_reward_prints_is_no_part_of_the_json(run, tmp_path):
    lines = ["print('imported')", "def loud(completions, prompts, **_):", "    print('-', prompts[0][-1])"]
    (tmp_path / "loud.py").write_text("\n".join([*lines, "    return [1.0] * len(completions)", ""]))
    status, out, err = run("score", "loud.py:loud", "--completion", "x", "--format", "json")
    assert (status, json.loads(out)["rows"]) == (0, [{"loud": 1.0, "total": 1.0}])
    assert "imported" in err
    assert "- {'role': 'user'" in err


@pytest.mark.parametrize("name", ["completions", "prompts", "completion_ids", "trainer_state", "log_extra", "image"])
def test_a_column_that_means_something_to_a_reward_is_refused_wherever_it_comes_from(run, tmp_path, name):
    message = f"names '{name}', which has a meaning of its own already"
    assert f"--column {message}" in run("score", "gsm8k", "--completion", "x", "--column", f"{name}=1")[2]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"completion": "x", "answer": "1", name: "1"}) + "\n")
    status, out, err = run("score", "gsm8k", "--data", "rows.jsonl")
    assert (status, out) == (1, "")
    assert f"rows.jsonl, line 1 {message}" in err
