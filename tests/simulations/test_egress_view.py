"""An organisation sees on its own page what its egress record holds, and whether a message was taken out of it."""

import json

import pytest
from fedgrpo.common.errors import RunError
from fedgrpo.simulations.dashboard.app import organisation_app
from fedgrpo.simulations.dashboard.egress_view import EgressView
from starlette.testclient import TestClient

EVIL = "<img src=x onerror=alert(1)>\x1b[2J"


def message(number, **changes):
    field = {"name": "vector.update", "type": "f4", "shape": [10], "bytes": 40, "sha256": "ab" * 32, "norm": 1.25}
    return {
        "number": number,
        "time": 1000.0 + number,
        "answers": "train",
        "to": "fed.example.org:8000",
        "to_known_from": "supernode",
        "sent": True,
        "bytes": 100,
        "policy_sha256": "cd" * 32,
        "fields": [field],
        **changes,
    }


def recorded(folder, *messages):
    path = folder / "egress.jsonl"
    with path.open("a") as file:
        file.write("".join(json.dumps(each) + "\n" for each in messages))
    return path


def page_of(path):
    return TestClient(organisation_app(EgressView(path, "clinic-a")), base_url="http://localhost")


def test_totals_and_fields_are_those_of_the_record(tmp_path):
    path = recorded(tmp_path, message(1), message(2, answers="evaluate"), message(3, sent=False, bytes=7))
    found = page_of(path).get("/api/egress").json()
    assert (found["messages"], found["sent"], found["bytes"]) == (3, 2, 200)
    assert found["answers"] == {"train": 1, "evaluate": 1}
    assert found["destinations"] == ["fed.example.org:8000"]
    assert found["missing"] == []
    assert found["last"][0]["fields"] == [
        {"name": "vector.update", "type": "f4", "bytes": 40, "norm": 1.25, "value": None, "sha256": "ab" * 32}
    ]


def test_a_message_that_was_taken_out_is_named(tmp_path):
    path = recorded(tmp_path, message(4), message(5), message(8))
    assert page_of(path).get("/api/egress").json()["missing"] == [6, 7]


def test_what_leaves_later_is_read_on(tmp_path):
    view = EgressView(tmp_path / "egress.jsonl", "clinic-a")
    assert not view.update()
    assert view.overview()["messages"] == 0
    recorded(tmp_path, message(1))
    assert view.update()
    assert view.overview()["messages"] == 1


def test_texts_of_others_cannot_give_orders(tmp_path):
    path = recorded(tmp_path, message(1, to=EVIL, answers=EVIL, fields=[{"name": EVIL, "value": EVIL}, "no field"]))
    answer = page_of(path).get("/api/egress")
    assert answer.status_code == 200
    assert "\\u001b" not in answer.text


@pytest.mark.parametrize("line", ["[]", "{}", '{"time": "now", "fields": []}', '{"time": 1, "fields": {}}'])
def test_a_damaged_record_is_told(tmp_path, line):
    path = recorded(tmp_path, message(1))
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(RunError, match=r"egress\.jsonl"):
        EgressView(path, "clinic-a").update()
    assert page_of(path).get("/api/egress").status_code == 422
