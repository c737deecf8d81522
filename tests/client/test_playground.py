"""The playground scores with the real rewards, runs nothing but what it was started with, and re-reads a saved file."""

import json
import os

import pytest
from fedgrpo.client.learner.rewards import load_rewards
from fedgrpo.client.playground.app import playground_app
from fedgrpo.client.playground.presets import PRESETS
from fedgrpo.client.playground.scoring import Workbench
from fedgrpo.common.errors import ConfigError, DataError
from starlette.testclient import TestClient

OWN = '''
def brief(completions, log_extra, **_):
    """Pays for brevity."""
    log_extra("length", [len(c[0]["content"]) for c in completions])
    return [{PAY} if len(c[0]["content"]) < 9 else 0.0 for c in completions]
'''


def page_of(spec="", data=None):
    return TestClient(playground_app(Workbench(spec, data)), base_url="http://localhost")


def asked(client, **changes):
    body = {
        "rewards": "gsm8k",
        "question": "",
        "answer": "24",
        "columns": {},
        "completions": ["24", "<answer>24</answer>"],
    }
    return client.post("/api/score", json=body | changes)


@pytest.mark.parametrize("spec", PRESETS)
def test_values_and_sums_are_those_of_the_rewards(spec):
    preset = PRESETS[spec]
    client = page_of()
    assert client.get("/api/start", params={"rewards": spec}).json()["example"]["completions"] == preset["completions"]
    given = {key: preset[key] for key in ("question", "answer", "completions")}
    found = asked(client, rewards=spec, columns=preset.get("columns", {}), **given).json()
    chosen = load_rewards(spec)
    assert [one["name"] for one in found["rewards"]] == [reward.name for reward in chosen]
    columns = {
        k: [v] * len(preset["completions"])
        for k, v in {**preset.get("columns", {}), "answer": preset["answer"]}.items()
    }
    for reward, one in zip(chosen, found["rewards"], strict=True):
        values = reward(completions=[[{"role": "assistant", "content": t}] for t in preset["completions"]], **columns)
        assert one["values"] == pytest.approx(values), reward.name
    for at, total in enumerate(found["total"]):
        assert total == pytest.approx(
            sum((one["values"][at] or 0) * one["weight"] for one in found["rewards"]), abs=1e-5
        )
    assert found["signal"]
    assert sum(found["advantages"]) == pytest.approx(0, abs=1e-4)


def test_weights_change_the_sum():
    found = asked(page_of(), weights=[2, 0, 0, 0, 0]).json()
    assert found["total"] == [0.0, 4.0]


def test_a_group_of_equal_rewards_has_no_signal():
    found = asked(page_of(), completions=["24", "24"]).json()
    assert not found["signal"]
    assert found["advantages"] == [0.0, 0.0]


def test_an_organisations_file_is_read_again_when_it_is_saved(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(OWN.replace("{PAY}", "1.0"))
    client = page_of(f"correctness,{file}:brief=0.5")
    spec = client.get("/api/start").json()["rewards"]
    before = client.get("/api/version").json()
    (_, brief) = asked(client, rewards=spec).json()["rewards"]
    assert (brief["name"], brief["values"], brief["weight"]) == ("brief", [1.0, 0.0], 0.5)
    assert brief["about"] == "Pays for brevity."
    assert brief["reasons"][0] == [{"code": "logged", "good": True, "values": {"name": "length", "value": "2"}}]
    file.write_text(OWN.replace("{PAY}", "3.25"))
    os.utime(file, ns=(1, 1))
    assert client.get("/api/version").json() != before
    assert asked(client, rewards=spec).json()["rewards"][1]["values"] == [3.25, 0.0]


@pytest.mark.parametrize(
    ("text", "says"),
    [("def brief(:", "cannot be imported"), ("def other(completions, **_): return []", "no function brief")],
)
def test_a_file_that_was_saved_broken_is_told_and_can_be_mended(tmp_path, text, says):
    file = tmp_path / "mine.py"
    file.write_text(OWN.replace("{PAY}", "1.0"))
    client = page_of(f"{file}:brief")
    spec = client.get("/api/start").json()["rewards"]
    file.write_text(text)
    answer = asked(client, rewards=spec)
    assert answer.status_code == 422
    assert says in answer.json()["error"]
    file.write_text(OWN.replace("{PAY}", "1.0"))
    assert asked(client, rewards=spec).json()["rewards"][0]["values"] == [1.0, 0.0]


def test_a_function_that_raises_is_told_beside_the_others(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def broken(completions, **_):\n    return 1 / 0\n")
    found = asked(page_of(f"correctness,{file}"), rewards=f"correctness,{file}").json()["rewards"]
    assert found[0]["values"] == [0.0, 2.0]
    assert "raised ZeroDivisionError" in found[1]["error"]
    assert "line 2" in found[1]["error"]


@pytest.mark.parametrize(
    "changes",
    [
        {"rewards": "/etc/passwd.py"},
        {"rewards": "mine.py"},
        {"completions": []},
        {"completions": "24"},
        {"completions": ["x"] * 65},
        {"completions": ["x" * 20_001]},
        {"columns": {"a": 1}},
        {"answer": 24},
        {"weights": [1]},
        {"weights": [1e9] * 5},
        {"weights": "11111"},
        {"scale_rewards": "all"},
    ],
)
def test_anything_else_is_refused(changes):
    answer = asked(page_of(), **changes)
    assert answer.status_code == 422
    assert answer.json()["error"]


def test_another_page_cannot_ask():
    client = page_of()
    body = json.dumps({"rewards": "gsm8k", "completions": ["24"]})
    kinds = {"content-type": "application/json"}
    assert (
        client.post("/api/score", content=body, headers=kinds | {"origin": "https://evil.example"}).status_code == 403
    )
    assert client.post("/api/score", content=body, headers={"content-type": "text/plain"}).status_code == 422
    assert client.post("/api/score", content=body, headers=kinds | {"host": "evil.example"}).status_code == 421
    assert client.post("/api/score", content=body, headers=kinds | {"origin": "http://localhost"}).status_code == 200
    assert client.post("/api/score", content="{" * 9, headers=kinds).status_code == 422
    assert client.post("/api/score", content="1" * 2_000_001, headers=kinds).status_code == 422


def test_samples_of_a_model_are_grouped_and_silent_groups_counted(tmp_path):
    file = tmp_path / "samples.jsonl"
    rows = [
        *({"question": "a", "answer": "4", "completion": text} for text in ("<answer>4</answer>", "4")),
        *({"question": "b", "answer": "5", "completion": text} for text in ("x", "y")),
    ]
    file.write_text('{"evaluation": {}}\n' + "".join(json.dumps(row) + "\n" for row in rows))
    client = page_of("correctness", file)
    start = client.get("/api/start").json()
    assert (start["groups"], start["example"]["completions"]) == (2, ["<answer>4</answer>", "4"])
    assert client.get("/api/start?group=1").json()["example"]["answer"] == "5"
    assert client.get("/api/start?rewards=extraction&group=1").json()["groups"] == 0
    assert client.get("/api/spread").json() == {"groups": 2, "silent": [1]}


def test_of_a_saved_evaluation_the_base_models_samples_are_shown(tmp_path):
    file = tmp_path / "saved.jsonl"
    row = {"question": "a", "answer": "4", "style": "untagged", "strict_answer": "4", "labels": {}}
    passes = [("sampled", "base", "4"), ("sampled", "base", "5"), ("greedy", "base", "6"), ("sampled", "adapter", "7")]
    lines = [{"evaluation": {}}, *({**row, "decoding": d, "model": m, "completion": c} for d, m, c in passes)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    example = page_of("correctness", file).get("/api/start").json()["example"]
    assert example["completions"] == ["4", "5"]
    assert example["columns"] == {}


def test_what_the_command_names_must_be_there(tmp_path):
    with pytest.raises(ConfigError, match="There is no reward file"):
        Workbench(str(tmp_path / "none.py"))
    (tmp_path / "empty.jsonl").write_text('{"question": "a"}\n')
    with pytest.raises(DataError, match="no line with a text in 'completion'"):
        Workbench("", tmp_path / "empty.jsonl")
