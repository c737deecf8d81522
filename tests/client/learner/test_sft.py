"""A supervised start: it teaches a format, leaves a whole model folder or none, and says which one."""

import json
from statistics import mean

import pytest
import tiny_qwen
import torch
from fedgrpo.client.learner.data.answers import style
from fedgrpo.client.learner.models.base_model import Base, load_tokenizer
from fedgrpo.client.learner.models.model_files import file_hash
from fedgrpo.client.learner.training import sft
from fedgrpo.client.learner.training.sft import SFT, teach
from fedgrpo.common.errors import ConfigError, DataError
from fedgrpo.simulations.builtin import world
from fedgrpo.simulations.builtin.demonstrations import worked_out
from fedgrpo.simulations.engine.simulated_clients import BUILTIN_POLICY

SHOWN = [
    (f"What is {a}+{b}?", f"<reasoning>{a}+{b}={a + b}</reasoning><answer>{a + b}</answer>")
    for a in range(1, 9)
    for b in range(1, 5)
]
HELD_OUT = [problem.question for problem in world.problems("test", 40, 0)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_qwen.make(tmp_path_factory.mktemp("sft") / "tiny")


def base_of(folder):
    return Base.load(folder, "float32", torch.device("cpu"))


def format_share(folder):
    """Share of the sampled answers to new questions that reason and then answer."""
    base = base_of(folder)
    chats = [[{"role": "user", "content": question}] for question in HELD_OUT]
    texts = base.tokenizer.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
    given = base.tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
    torch.manual_seed(0)
    found = base.model.generate(**given, max_new_tokens=44, do_sample=True, top_k=0)
    answers = base.tokenizer.batch_decode(found[:, given["input_ids"].shape[1] :], skip_special_tokens=True)
    return sum(style(answer) == "reasoned" for answer in answers) / len(answers)


def test_the_tiny_policy_learns_to_reason_first_from_a_few_demonstrations(tmp_path):
    shown = [(p.question, worked_out(p, "reasoning")) for p in world.problems("cold", 64, 0)]
    settings, seen = SFT(steps=16, learning_rate=5e-3), []
    taught = teach(base_of(BUILTIN_POLICY), shown, settings, tmp_path / "out", lambda *step: seen.append(step))
    assert mean(taught.losses[-4:]) < 0.5 * mean(taught.losses[:2])
    assert [(step, of) for step, of, _ in seen] == [(n, 16) for n in range(1, 17)]
    assert format_share(BUILTIN_POLICY) < 0.4
    assert format_share(tmp_path / "out") > 0.8


def test_the_folder_is_whole_pinned_by_its_hash_and_its_tokenizer_is_the_bases(folder, tmp_path):
    out = tmp_path / "out"
    quick = SFT(steps=2, learning_rate=1e-2)
    taught = teach(base_of(folder), SHOWN, quick, out)
    assert taught.sha256 == file_hash(out) != taught.base_sha256 == file_hash(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (out / name).read_bytes() == (folder / name).read_bytes()
    assert load_tokenizer(out)("<answer>17")["input_ids"] == load_tokenizer(folder)("<answer>17")["input_ids"]
    assert json.loads((out / "sft.json").read_text())["base_sha256"] == file_hash(folder)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    again = teach(base_of(folder), SHOWN, quick, tmp_path / "again")
    assert again.sha256 == taught.sha256  # on a CPU, any party can make it anew and compare


def test_what_is_too_long_is_left_out_and_counted(folder, tmp_path):
    long = ("What?", "x" * 300)
    taught = teach(base_of(folder), [*SHOWN[:4], long], SFT(steps=1, max_length=250), tmp_path / "out")
    assert (taught.examples, taught.left_out) == (4, 1)
    with pytest.raises(DataError, match="more than --max-length 250 tokens"):
        teach(base_of(folder), [long], SFT(max_length=250), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_loss_is_on_the_completion_and_its_end_and_not_on_the_prompt(folder, tmp_path):
    base, question = base_of(folder), "What is 1+1?"
    chat = sft._chat(question, "It is 2.", "Be brief.")
    trainer = sft._trainer(base, [sft._tokens(base, chat)] * 4, SFT(batch_size=4), sft._Losses(print), str(tmp_path))
    batch = next(iter(trainer.get_train_dataloader()))
    rows = zip(batch["input_ids"], batch["labels"], strict=True)
    for whole, labels in rows:
        assert question in base.tokenizer.decode(whole)
        assert base.tokenizer.decode(labels[labels != -100]).rstrip() == "It is 2.<|im_end|>"


def test_a_stopped_run_leaves_nothing_and_a_folder_that_is_there_is_kept(folder, tmp_path):
    def stop(step, of, loss):
        raise KeyboardInterrupt

    (tmp_path / "out.part").mkdir()
    (tmp_path / "out.part" / "mine").touch()
    with pytest.raises(KeyboardInterrupt):
        teach(base_of(folder), SHOWN, SFT(steps=2), tmp_path / "out", stop)
    assert list(tmp_path.rglob("*")) == [tmp_path / "out.part", tmp_path / "out.part" / "mine"]
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="already exists. Choose another folder"):
        teach(base_of(folder), SHOWN, SFT(steps=2), tmp_path / "out")


def test_the_command_writes_a_model_and_says_its_hash(run, folder, tmp_path):
    shown = tmp_path / "shown.jsonl"
    shown.write_text("\n".join(json.dumps({"q": q, "completion": c}) for q, c in SHOWN[:8]))
    words = ["sft", shown, "--model", folder, "--out", tmp_path / "out", "--question", "q", "--steps", 2]
    status, out, err = run(*words, "--system", "xml", "--format", "json")
    assert status == 0, err
    found = json.loads(out)
    assert found["sha256"] == file_hash(tmp_path / "out")
    assert (found["examples"], found["steps"]) == (8, 2)
    assert "step 2 of 2: loss" in err
    status, _, err = run(*words)
    assert status == 1
    assert "already exists. Choose another folder" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--rank", 0], "--rank is 0"),
        (["--source", "nowhere"], "must be one of: hub, modelscope"),
        (["--completion", "answer"], "shown.jsonl, line 1 has no text field 'answer'"),
    ],
)
def test_a_wrong_option_is_named(run, folder, tmp_path, words, says):
    (tmp_path / "shown.jsonl").write_text('{"question": "1+1?", "completion": "2"}')
    status, _, err = run("sft", tmp_path / "shown.jsonl", "--model", folder, "--out", tmp_path / "out", *words)
    assert status == 1
    assert says in " ".join(err.split())
    assert not (tmp_path / "out").exists()
