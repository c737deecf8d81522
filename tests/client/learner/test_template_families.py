"""Eight template families and their quirks: simulated, evaluated, checked and taught; and what each quirk comes to."""

import json
from datetime import datetime

import pytest
import template_families
import torch
from fedgrpo.client.commands import check, check_view
from fedgrpo.client.learner.data.judge import judge
from fedgrpo.client.learner.models import chat_template
from fedgrpo.client.learner.models.base_model import Base, load_tokenizer
from fedgrpo.client.learner.models.model_files import file_hash
from fedgrpo.client.learner.rewards import load_rewards
from fedgrpo.client.learner.training import sft
from fedgrpo.client.main import app
from fedgrpo.common.errors import ConfigError
from fedgrpo.server.main import run_federation
from fedgrpo.server.run.reader import Run
from fedgrpo.simulations.engine import runner
from fedgrpo.simulations.engine.grid import LocalGrid, LocalWorker
from fedgrpo.simulations.evaluation.record import Record
from organisations import organisation_file
from template_families import BASE_MODEL, FAMILIES

SYSTEM = "Answer inside <answer> and </answer>."
CHAT = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "What is 1+1?"}]
OPENED = '''
def opened(completions, **_):
    """1 where a completion begins with thinking."""
    return [float(messages[0]["content"].startswith("<think>")) for messages in completions]
'''
SHOWN = [("What is 1+1?", "<think>1+1=2</think>\n<answer>2</answer>"), ("What is 2+1?", "<answer>3</answer>")]
NOTED = {
    "qwen2.5": [],
    "qwen3": [],
    "llama3": ["writes today's date"],
    "gemma": ["takes no system turn"],
    "smollm2": [],
    "r1-distill": ["begins each answer itself, with '<think>"],
    "mistral": ["takes no system turn"],
    "phi3": [],
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("families") / request.param
    return request.param, template_families.make(folder, FAMILIES[request.param])


@pytest.fixture(scope="module")
def r1(tmp_path_factory):
    return template_families.make(tmp_path_factory.mktemp("families") / "r1", FAMILIES["r1-distill"])


@pytest.fixture(scope="module")
def base_model(tmp_path_factory):
    return template_families.make(tmp_path_factory.mktemp("families") / "base", BASE_MODEL)


def base_of(folder):
    return Base.load(folder, "float32", torch.device("cpu"))


def problems(path, count=8):
    rows = [{"question": f"What is {n}+1?", "answer": str(n + 1)} for n in range(count)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def noted(name, lines):
    assert len(lines) == len(NOTED[name])
    assert all(note in line for note, line in zip(NOTED[name], lines, strict=True))


@pytest.mark.e2e
def test_a_family_trains_a_round(family, tmp_path, caplog):
    name, folder = family
    (tmp_path / "opened.py").write_text(OPENED)
    values = {
        "model.name": str(folder),
        "federation.rounds": 1,
        "train.steps-per-round": 1,
        "grpo.num-generations": 2,
        "grpo.per-device-train-batch-size": 4,
        "grpo.max-completion-length": 8,
        "grpo.max-prompt-length": 1000,
        "adapter.rank": 2,
        "simulation.clients": 2,
        "simulation.problems": 16,
        "simulation.system-prompt": "think",
        "simulation.rewards": f"think,{tmp_path / 'opened.py'}",
        "evaluation.problems": 4,
        "output.dir": str(tmp_path),
        "output.run": "run",
    }
    config = runner.checked(runner.scenario("builtin").with_values(values))
    noted(name, [record.getMessage() for record in caplog.records if record.name == "fedgrpo.simulation"])
    nodes = {k + 2: {"partition-id": k, "num-partitions": 2} for k in range(2)}
    worker = LocalWorker(app, nodes, config.flat())
    grid = LocalGrid(dict.fromkeys(nodes, worker))
    run_federation(grid, config)
    grid.close()
    (trained,) = Run.read(tmp_path / "run").rounds
    means = {client.reported["reward/opened/mean"] for client in trained.clients.values()}
    assert means == {float(name == "r1-distill")}


def test_a_family_is_evaluated(family, run, tmp_path):
    name, folder = family
    (tmp_path / "system.txt").write_text(SYSTEM)
    words = ["--model", folder, "--problems", problems(tmp_path / "p.jsonl"), "--system", tmp_path / "system.txt"]
    status, out, err = run("evaluate", *words, "--max-tokens", 8, "--format", "json")
    assert status == 0, err
    assert json.loads(out)["problems"] == 8
    noted(name, [line for line in err.splitlines() if "The model's" in line])


def test_a_family_passes_client_check(family, tmp_path):
    name, folder = family
    problems(tmp_path / "train.jsonl", 40)
    organisation = organisation_file(
        tmp_path,
        model__folder=str(folder),
        model__sha256=file_hash(folder),
        prompt__system=SYSTEM,
        policy__max_bytes_per_round=10**6,
        policy__class_columns=[],
        policy__max_new_tokens=8,
    )
    found = check.check(organisation, None, 1)
    assert [problem for problem in found.problems if "flower." not in problem] == []
    assert "policy" in dict(found.steps)
    noted(name, [warning for warning in found.warnings if warning.startswith("The model's")])
    check_view.show(found)


def test_a_family_is_taught(family, run, tmp_path):
    name, folder = family
    shown = tmp_path / "shown.jsonl"
    shown.write_text("\n".join(json.dumps({"question": q, "completion": c}) for q, c in SHOWN))
    words = ["sft", shown, "--model", folder, "--out", tmp_path / "out", "--steps", 1, "--system", "xml"]
    status, _, err = run(*words)
    assert status == 0, err
    noted(name, [line for line in err.splitlines() if "The model's" in line])


def test_a_demonstration_is_the_prompt_of_inference_then_the_answer_and_its_end(family):
    name, folder = family
    base = base_of(folder)
    prompt = base.tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    end = base.tokenizer.convert_ids_to_tokens(chat_template.turn_end(base.tokenizer))
    for thought in ("1+1=2", ""):
        start = "" if name == "r1-distill" else "<think>"
        chat = sft._chat(CHAT[1]["content"], f"<think>{thought}</think>\nIt is 2.", SYSTEM)
        row = sft._tokens(base, chat)
        taught = [token for token, mask in zip(row["input_ids"], row["completion_mask"], strict=True) if mask]
        text = base.tokenizer.decode(row["input_ids"])
        assert text.startswith(prompt)
        assert base.tokenizer.decode(taught).lstrip().startswith(f"{start}{thought}</think>\nIt is 2.{end}")


def test_a_system_prompt_that_the_template_refuses_is_part_of_the_question(tmp_path):
    for name in ("gemma", "mistral"):
        tokenizer = load_tokenizer(template_families.make(tmp_path / name, FAMILIES[name]))
        longer = [*CHAT, {"role": "assistant", "content": "2"}, {"role": "user", "content": "And 2+1?"}]
        for chat in (CHAT, longer):
            assert f"{SYSTEM}\n\nWhat is 1+1?" in tokenizer.apply_chat_template(chat, tokenize=False)
        plain = tokenizer.apply_chat_template(CHAT[1:], tokenize=False)
        assert plain == template_families.tokenizer(FAMILIES[name]).apply_chat_template(CHAT[1:], tokenize=False)
        assert chat_template.as_published(tokenizer.chat_template) == FAMILIES[name].template


def test_a_system_prompt_that_the_template_leaves_out_is_part_of_the_question(tmp_path):
    silent = "{% for m in messages if m['role'] != 'system' %}{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
    folder = template_families.make(tmp_path / "silent", FAMILIES["mistral"])
    (folder / "chat_template.jinja").write_text(silent)
    rendered = load_tokenizer(folder).apply_chat_template(CHAT, tokenize=False)
    assert rendered == f"user: {SYSTEM}\n\nWhat is 1+1?</s>"


def test_a_dated_template_writes_one_date_in_any_format(tmp_path):
    formats = "%Y-%m-%d %H:%M:%S, %A %d %B %y, %I %p, %j"
    folder = template_families.make(tmp_path / "dated", FAMILIES["llama3"])
    (folder / "chat_template.jinja").write_text(
        "{{ strftime_now('" + formats + "') }}: {{ messages[0]['content'] }}</s>"
    )
    rendered = load_tokenizer(folder).apply_chat_template(CHAT[1:], tokenize=False)
    assert rendered.startswith(datetime(2024, 7, 26, 12).strftime(formats))


def test_answers_to_other_prompts_are_not_mixed(tmp_path):
    path = tmp_path / "a.jsonl"
    Record(path, {"prompts_sha256": "1", "seed": 0})
    Record(path, {"prompts_sha256": "1", "seed": 0})
    with pytest.raises(ConfigError, match="another evaluation: the prompts' text differs. Name another file"):
        Record(path, {"prompts_sha256": "2", "seed": 0})


def test_an_opening_in_the_prompt_is_part_of_the_completion_for_rewards_and_judge(r1, run, tmp_path):
    tokenizer = load_tokenizer(r1)
    said = "3+4=7\n</think>\n<answer>7</answer>"
    ids = [*tokenizer(said)["input_ids"], tokenizer.eos_token_id]
    (text,) = chat_template.texts(tokenizer, [ids])
    assert text == "<think>\n" + said
    assert judge(text, "7").style == "reasoned"
    paid = {reward.name: reward(completions=[text], answer=["7"])[0] for reward in load_rewards("think")}
    assert paid["think-format"] == 0.5
    (tmp_path / "rows.jsonl").write_text(json.dumps({"completion": said, "answer": "7"}))
    words = ["rewards", "score", "think", "--data", tmp_path / "rows.jsonl", "--format", "json"]
    status, out, _ = run(*words, "--model", r1)
    assert (status, json.loads(out)["rows"][0]["total"]) == (0, 2.75)
    status, out, err = run(*words)
    assert (status, json.loads(out)["rows"][0]["total"]) == (0, 2.25)
    assert "1 of 1 completions end a <think> that they do not begin" in err


def test_an_opening_goes_before_each_turn_of_the_model_and_before_no_tool_output():
    turns = [{"role": "assistant", "content": "a"}, {"role": "tool", "content": "b"}]
    assert chat_template.with_opening([turns, "c"], "<think>") == [
        [{"role": "assistant", "content": "<think>a"}, {"role": "tool", "content": "b"}],
        "<think>c",
    ]
    assert chat_template.with_opening([turns], "") == [turns]


def test_the_template_s_end_of_turn_ends_completions_of_a_base_model(base_model, tmp_path):
    base = base_of(base_model)
    ids = base.tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    assert base.model.generation_config.eos_token_id == ids
    assert "ends a turn with <|im_end|>, which is not the model's end token (<|endoftext|>)" in base.notes[0]
    sft.teach(base, SHOWN, sft.SFT(steps=1), tmp_path / "out")
    taught = base_of(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"] == ids
    assert taught.notes == ()


def test_a_template_without_an_end_is_noted_and_not_taught(base_model, tmp_path):
    base = base_of(base_model)
    base.tokenizer.chat_template = "{% for m in messages %}### {{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    assert "writes no end token" in chat_template.notes(base.tokenizer, base_model)[0]
    with pytest.raises(ConfigError, match="no end token after an answer.*would never end. Write {{ eos_token }}"):
        sft.teach(base, SHOWN, sft.SFT(steps=1), tmp_path / "out")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('Tools only') }}", "TemplateError: Tools only"),
        ("{{ messages[0].content.nothing.at_all }}", "UndefinedError"),
        ("{% for", "TemplateSyntaxError"),
        ("Hello!", "it leaves out the text of the user's turn"),
    ],
)
def test_a_template_that_cannot_ask_is_refused_in_its_own_words(base_model, template, reason):
    tokenizer = load_tokenizer(base_model)
    tokenizer.chat_template = template
    with pytest.raises(ConfigError, match=f"cannot render a question: {reason}.*Use an instruct model"):
        chat_template.mend(tokenizer, base_model)


def test_tags_that_are_control_tokens_are_noted(base_model):
    tokenizer = load_tokenizer(base_model)
    assert chat_template.lost_tags(tokenizer) == []
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    assert chat_template.lost_tags(tokenizer) == ["<think>", "</think>"]
