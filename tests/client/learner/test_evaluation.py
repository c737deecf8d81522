"""`fedgrpo evaluate` and `fedgrpo chat` on the built-in policy: any target, any problems, resumable, side by side."""

import json

import numpy as np
import pytest
from fedgrpo.client.learner.models import chat_template
from fedgrpo.common.adapter.adapter import Adapter
from fedgrpo.common.adapter.peft_files import SCHEMA, write_peft
from fedgrpo.common.cli import main as cli
from fedgrpo.common.errors import ConfigError, RunError
from fedgrpo.common.settings.backend import SAMPLERS
from fedgrpo.simulations.engine.simulated_clients import BUILTIN_POLICY
from fedgrpo.simulations.evaluation import answering, session
from fedgrpo.simulations.evaluation.chat import Chat, How
from fedgrpo.simulations.evaluation.command import Backend
from fedgrpo.simulations.evaluation.questions import Asked
from fedgrpo.simulations.evaluation.target import locate
from learners import PROBLEMS, make_config
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run `fedgrpo ... --format json` in this process: (its last object, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*words, stdin=None):
        monkeypatch.setattr("sys.argv", ["fedgrpo", *map(str, words), "--format", "json"])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        assert caught.value.code == 0, err
        return [json.loads(line) for line in out.splitlines()], err

    return call


@pytest.fixture
def problems(tmp_path):
    """Twelve problems under other column names, the answer after a mark."""
    file = tmp_path / "mine.jsonl"
    rows = [{"ask": p.question, "key": f"so #### {p.answer}", "kind": p.labels["topic"]} for p in PROBLEMS[:12]]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


COLUMNS = ("--question", "ask", "--answer", "key", "--answer-after", "####", "--classes", "kind")


def noisy_adapter(folder, model, scale=0.3):
    noise = np.random.default_rng(0).normal(size=model.schema.size).astype(np.float32)
    adapter = Adapter.initial(model.schema).plus(scale * noise)
    write_peft(adapter, folder, "builtin")
    return adapter


def test_a_model_alone_on_any_file_with_any_reward(run, problems, tmp_path):
    (tmp_path / "mine.py").write_text(
        "def size(completions, **kwargs):\n    return [len(c[0]['content']) for c in completions]\n"
    )
    words = (
        "--model",
        "builtin",
        "--problems",
        problems,
        *COLUMNS,
        "--rewards",
        "correctness,mine.py",
        "--max-tokens",
        44,
    )
    (found,), _ = run("evaluate", *words, "--samples", 4, "--pass-at", "1,2,4", "--save", "a.jsonl")
    sampled, lines = found["sampled"], [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    mine = [line for line in lines[1:] if line["decoding"] == "sampled"]
    assert len(mine) == 12 * 4
    assert len(lines) - 1 == 12 * 5 == found["completions"]
    assert "adapter" not in sampled["strict"]
    assert sampled["strict"]["base"] == pytest.approx(np.mean([line["strict"] for line in mine]))
    assert sampled["reward/size"]["base"] == pytest.approx(np.mean([len(line["completion"]) for line in mine]))
    assert sampled["reward/correctness"]["base"] == pytest.approx(2 * sampled["strict"]["base"])
    right = [[line["strict"] for line in mine if line["problem"] == i] for i in range(12)]
    assert sampled["pass@4"]["base"] == pytest.approx(np.mean([any(row) for row in right]))
    assert sampled["pass@1"]["base"] == pytest.approx(sampled["strict"]["base"])
    assert set(sampled["by_class"]) == {f"kind={p.labels['topic']}" for p in PROBLEMS[:12]}
    assert lines[1]["answer"] == PROBLEMS[lines[1]["problem"]].answer


def test_what_is_answered_is_not_answered_again(model, tmp_path, problems):
    noisy_adapter(tmp_path / "adapter", model)
    target = locate(tmp_path / "adapter", "builtin")
    target = type(target)(target.name, target.config.with_values({"evaluation.batch-size": 4}), target.folder, False)
    how = answering.protocol(target.config, 1, None, True, 0)
    asked = Asked(file=str(problems), question="ask", answer="key", answer_after="####", limit=8)
    file = tmp_path / "answers.jsonl"

    def evaluate(save, **changes):
        return session.evaluate(target, asked, type(how)(**{**vars_of(how), **changes}), pass_at=(1,), save=save)

    whole = evaluate(file)
    assert whole.sampled_now == 32
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:19]) + lines[19][:40])  # killed in the middle of a line and of a batch
    rest = evaluate(file)
    assert 32 - 18 <= rest.sampled_now < 32
    assert rest.measured == whole.measured
    again = evaluate(file)
    assert again.sampled_now == 0
    assert again.measured == whole.measured
    with pytest.raises(ConfigError, match="another evaluation: temperature differs"):
        evaluate(file, temperature=0.5)
    rounded = answering.protocol(target.config.with_values({"model.dtype": "bfloat16"}), 1, None, True, 0)
    with pytest.raises(ConfigError, match="another evaluation: dtype differs"):
        evaluate(file, **vars_of(rounded))
    for text, wrong in (("mine\n", RunError), ('{"mine": 1}\n', ConfigError), ("mine", ConfigError)):
        (tmp_path / "mine").write_text(text)
        with pytest.raises(wrong, match="is damaged|does not contain answers"):
            evaluate(tmp_path / "mine")
        assert (tmp_path / "mine").read_text() == text


def vars_of(how):
    return {name: getattr(how, name) for name in how.__dataclass_fields__}


def test_every_sampler_there_is_can_be_asked_for():
    assert {backend.value for backend in Backend} == set(SAMPLERS)


def test_an_adapter_is_compared_with_its_base_in_pairs(run, model, tmp_path, problems):
    adapter = noisy_adapter(tmp_path / "adapter", model, scale=3.0)
    words = ("--problems", problems, *COLUMNS, "--max-tokens", 44, "--show", 0)
    (found,), _ = run("evaluate", "adapter", *words)
    assert found["adapter_sha256"] == adapter.sha256
    strict = found["sampled"]["strict"]
    assert strict["gain"] == pytest.approx(strict["adapter"] - strict["base"])
    assert strict["interval"][0] < strict["gain"] < strict["interval"][1]
    (alone,), _ = run("evaluate", "--model", "builtin", *words, "--set", "federation.seed=0")
    assert alone["sampled"]["strict"]["base"] == strict["base"]
    assert (
        alone["greedy"]["tokens"]["base"] == found["greedy"]["tokens"]["base"] != found["greedy"]["tokens"]["adapter"]
    )


def test_an_adapter_that_peft_wrote_is_the_same_adapter(run, tmp_path, problems):
    """Only two kinds of layers, no schema of ours: what comes out is what PEFT's own model computes."""
    base = AutoModelForCausalLM.from_pretrained(BUILTIN_POLICY)
    wrapped = get_peft_model(
        base, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    )
    wrapped.save_pretrained(tmp_path / "theirs")
    assert not (tmp_path / "theirs" / SCHEMA).exists()
    found = session.loaded(locate(tmp_path / "theirs", "builtin"), PROBLEMS[0])[0].trainer.adapted.model.eval()
    import torch

    ids = torch.arange(5, 45)[None]
    with torch.no_grad():
        assert (found(ids).logits - wrapped.eval()(ids).logits).abs().max() < 1e-5
    config = json.loads((tmp_path / "theirs" / "adapter_config.json").read_text())
    odd = {"use_dora": True, "layer_replication": [[0, 1]], "lora_alpha": 8.5, "init_lora_weights": "pissa_niter_16"}
    for name, value in odd.items():
        (tmp_path / "theirs" / "adapter_config.json").write_text(json.dumps(config | {name: value}))
        with pytest.raises(ConfigError, match=f"not plain LoRA: adapter_config.json uses {name}"):
            locate(tmp_path / "theirs", "builtin")


def test_an_adapter_of_another_model_is_refused(tmp_path, model):
    noisy_adapter(tmp_path / "adapter", model)
    target = locate(tmp_path / "adapter", "builtin-split")
    schema = make_config(adapter__rank=8)
    assert target.config.adapter.rank == 4 != schema.adapter.rank
    with pytest.raises(ConfigError, match="model of other shapes"):
        target.adapter(model.schema.at_rank(2))


def chat_of(model, sides=("base", "adapter"), temperature=0.0):
    return Chat(model, How(temperature=temperature, max_tokens=44, system=""), 0, sides)


def test_each_side_of_a_talk_remembers_its_own(model, tmp_path):
    model.trainer.adapted.load(noisy_adapter(tmp_path / "a", model, scale=3.0))
    seen = []
    real = model.tokenizer.apply_chat_template
    talk = chat_of(model)
    model.tokenizer.apply_chat_template = lambda chat, **kwargs: (seen.append(chat), real(chat, **kwargs))[1]
    try:
        first = talk.ask(PROBLEMS[0].question)
        talk.ask("And one more?")
        talk.command("/system think")
        talk.ask("Again")
    finally:
        model.tokenizer.apply_chat_template = real
    seen = [chat for chat in seen if chat[0]["content"] != chat_template.USER]
    assert [reply.model for reply in first] == ["base", "adapter"]
    assert first[0].text != first[1].text
    for side, chat in zip(first, seen[2:4], strict=True):
        assert [m["content"] for m in chat] == [PROBLEMS[0].question, side.text, "And one more?"]
    assert [m["role"] for m in seen[4]] == ["system", "user"]


def test_commands_change_the_talk_or_say_what_is_wrong(model):
    talk = chat_of(model)
    assert talk.command("/temperature 0.7") == "temperature 0.7"
    assert talk.command("/tokens 8") == "at most 8 tokens"
    assert talk.ask("1+1?")[0].tokens <= 8
    assert talk.command("/greedy") == "greedy"
    assert talk.how.temperature == 0.0
    for wrong, says in (
        ("/warm", "no command /warm"),
        ("/temperature hot", "needs a number"),
        ("/system x", "nor a text file"),
    ):
        with pytest.raises(ConfigError, match=says):
            talk.command(wrong)


def test_a_seed_that_is_none_is_refused_before_the_model_is_loaded(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["fedgrpo", "chat", "--model", "builtin", "--ask", "1+1?", "--seed", "-5"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    assert "--seed" in capsys.readouterr().err


def test_one_question_and_a_pipe_of_them(run, monkeypatch, tmp_path, model):
    import io

    noisy_adapter(tmp_path / "adapter", model)
    (one,), _ = run("chat", "adapter", "--ask", PROBLEMS[0].question, "--temperature", 0)
    assert set(one["replies"]) == {"base", "adapter"}
    assert one["replies"]["base"]["tokens"] > 0
    monkeypatch.setattr("sys.stdin", io.StringIO(f"/greedy\n{PROBLEMS[0].question}\n\nMore?\n/quit\nNever asked\n"))
    turns, _ = run("chat", "adapter")
    assert [turn["question"] for turn in turns] == [PROBLEMS[0].question, "More?"]
    assert turns[0]["replies"] == one["replies"]
