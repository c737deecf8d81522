"""One federated round on SmolLM2-135M-Instruct, which is fetched once; skipped with the reason where it cannot be."""

import json
import subprocess
import sys

import pytest
from fedgrpo.client.learner.models.base_model import load_tokenizer
from fedgrpo.client.learner.models.fetch import fetch
from fedgrpo.client.learner.models.model_files import file_hash
from fedgrpo.client.learner.models.registry import SMOLLM2
from fedgrpo.common.errors import ConfigError

pytestmark = [pytest.mark.model, pytest.mark.timeout(2400)]
SHORT = '''
def brief(completions, **_):
    """Less for a longer completion, so that groups have signal before the model knows the format."""
    return [1 / (1 + len(messages[0]["content"])) for messages in completions]
'''


@pytest.fixture(scope="module")
def fetched():
    """The model in the user's own cache."""
    try:
        return fetch(SMOLLM2, None, print)
    except ConfigError as error:
        pytest.skip(str(error))


def fedgrpo(*words):
    """Run a command; return the JSON that it ends with."""
    command = [sys.executable, "-m", "fedgrpo.common.cli.main", *map(str, words), "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_the_folder_is_the_one_that_was_published(fetched):
    assert file_hash(fetched.folder) == SMOLLM2.folder_sha256
    tokenizer = load_tokenizer(fetched.folder)
    assert tokenizer.convert_ids_to_tokens(tokenizer("12 + 7½")["input_ids"]) == [*list("12"), "Ġ+", "Ġ", "7", "Â½"]
    assert tokenizer.eos_token == "<|im_end|>"


def test_it_answers_a_question(fetched):
    done = fedgrpo("chat", "--model", "smollm2-135m", "--temperature", 0, "--ask", "What is 7 + 5?")
    assert "12" in json.dumps(done)


def test_a_round_trains_it_and_its_gguf_file_reads_back(fetched, tmp_path):
    (tmp_path / "brief.py").write_text(SHORT)
    small = {
        "model.dtype": "auto",
        "train.steps-per-round": 1,
        "grpo.num-generations": 4,
        "grpo.per-device-train-batch-size": 8,
        "grpo.max-completion-length": 16,
        "evaluation.problems": 4,
        "evaluation.every": 0,
    }
    options = [word for key, value in small.items() for word in ("--set", f"{key}={value}")]
    where = ("--out", tmp_path, "--run", "real", "--rewards", tmp_path / "brief.py")
    done = fedgrpo("simulate", "builtin", "--model", "smollm2-135m", "--clients", 2, "--rounds", 1, *options, *where)
    assert done["accuracy"]["after"] is not None
    metrics = (tmp_path / "real" / "metrics.jsonl").read_text().splitlines()
    norms = [json.loads(line).get("round/update-norm") for line in metrics if json.loads(line).get("kind") == "round"]
    assert norms[0] > 0
    made = fedgrpo("export", tmp_path / "real", "--to", "gguf", "--type", "f16", "--out", tmp_path / "made")
    assert made["differences"]["read_back"]["relative"] < 0.02
    file = next((tmp_path / "made").glob("*.gguf"))
    answer = fedgrpo("chat", "--model", file, "--temperature", 0, "--ask", "What is 7 + 5?")
    assert "12" in json.dumps(answer)
