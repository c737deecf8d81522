"""The relay: what leaves a client when something goes wrong is a code, never a text."""

import json

import numpy as np
import pytest
from federation import metrics, schema, settings
from fedgrpo.client import main
from fedgrpo.common import wire
from fedgrpo.common.adapter import Adapter
from fedgrpo.common.errors import ConfigError, DataError, ProtocolError, RewardError, RunError
from fedgrpo.common.protocol import Capabilities, Evaluation, Tally, Update
from fedgrpo.server.intake import read_capabilities, read_evaluation, read_update
from fedgrpo.simulations.grid import identify_process
from flwr.app import Context, Message, RecordDict

CANARY = "PATIENT-0815"


class Fake:
    """A learner that does what a test wants."""

    def __init__(self, own, act):
        self._own, self._act = own, act

    def capabilities(self):
        return Capabilities(
            organisation="clinic",
            schema=self._own,
            base_model_sha256="0" * 64,
            reward_names=("correctness",),
            metrics=tuple(metrics()),
            examples=9,
            prompts_too_long=1,
        )

    def train(self, task):
        return self._act(task)

    evaluate = train


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Send the relay a message: (its reply, the configuration, the schema)."""
    config = settings(tmp_path)
    own = schema(config)

    def send(kind, header=None, act=None, vector=None):
        identify_process()
        monkeypatch.setattr(main, "_simulated", lambda *_: Fake(own, act))
        content = wire.pack({"config-sha256": config.sha256, **(header or {})}, vector=vector)
        message = Message(content, 7, kind)
        context = Context(1, 7, {"partition-id": 0}, RecordDict(), config.flat())
        return main.app(message, context).content

    send.config, send.schema = config, own
    return send


def header(own, **changes):
    values = {"federation": "f", "round": 1, "attempt": 1, "nonce": "n", "schema-sha256": own.sha256}
    return {**values, "position": 0, "last-refusal": "", **changes}


def raising(error):
    def act(task):
        raise error

    return act


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError(CANARY), "config"),
        (DataError(CANARY), "data"),
        (RewardError(CANARY), "reward"),
        (ProtocolError("x", CANARY), "task"),
        (RunError(CANARY), "failed"),
        (KeyError(CANARY), "internal"),
        (MemoryError(CANARY), "internal"),
    ],
)
def test_a_failure_leaves_as_a_code_and_its_text_stays(call, error, code):
    content = call("train", header(call.schema), raising(error), np.zeros(call.schema.size, np.float32))
    assert wire.header_of(content) == {"protocol": wire.PROTOCOL, "error": code}
    assert list(content) == ["header"]
    assert CANARY not in repr(content)


def test_an_update_is_what_the_server_takes(call):
    delta = np.ones(call.schema.size, np.float32)

    def act(task):
        assert task.position == 12
        assert (task.adapter.vector == 2.0).all()
        return Update(delta=delta, num_steps=1, num_examples=4, metrics=metrics())

    sent = header(call.schema, position=12)
    content = call("train", sent, act, np.full(call.schema.size, 2.0, np.float32))
    echo = {k: sent[k] for k in ("federation", "round", "attempt", "nonce", "schema-sha256")}
    expected = {**echo, "config-sha256": call.config.sha256}
    member = read_capabilities(call("query.join"))
    assert (read_update(content, member, expected, call.schema, call.config).delta == delta).all()


def test_counts_are_what_the_server_takes(call):
    tally = Tally(problems=4, correct=2, lenient=2, tokens=9, gained=1)

    def act(task):
        assert task.temperature == 0.5
        return Evaluation(total=tally, classes={"steps=1": tally})

    sent = {"federation": "f", "round": 3, "temperature": 0.5}
    content = call("evaluate", sent, act, np.zeros(call.schema.size, np.float32))
    found = read_evaluation(content, {"federation": "f", "round": 3}, ("steps",))
    assert found.total == tally
    assert json.loads(str(wire.header_of(content)["tallies"]))["steps=1"] == [4, 2, 2, 0, 9, 1, 0]


@pytest.mark.parametrize(
    "changes",
    [
        {"config-sha256": "other"},
        {"schema-sha256": "other"},
        {"round": "1"},
        {"round": True},
        {"position": 1.5},
        {"last-refusal": 3},
        {"protocol": 1},
    ],
)
def test_a_task_that_is_not_exactly_right_is_refused_before_any_work(call, changes):
    worked = []
    sent = header(call.schema, **changes)
    content = call("train", sent, worked.append, np.zeros(call.schema.size, np.float32))
    assert wire.header_of(content)["error"] == "task"
    assert not worked


@pytest.mark.parametrize("vector", [None, np.zeros(3, np.float32), np.full(18, np.nan, np.float32)])
def test_an_adapter_that_does_not_fit_is_refused(call, vector):
    worked = []
    assert wire.header_of(call("train", header(call.schema), worked.append, vector))["error"] == "task"
    assert not worked


def test_a_node_that_is_no_organisation_may_use_no_data(tmp_path):
    config = settings(tmp_path)
    with pytest.raises(ConfigError, match="no config-path"):
        main._simulated((), tuple(sorted(config.flat().items())))


def test_the_adapter_of_a_task_cannot_be_written_to(call):
    def act(task):
        assert isinstance(task.adapter, Adapter)
        with pytest.raises(ValueError, match="read-only"):
            task.adapter.vector[0] = 1
        return Update(delta=task.adapter.vector, num_steps=1, num_examples=4, metrics=metrics())

    content = call("train", header(call.schema), act, np.zeros(call.schema.size, np.float32))
    assert "error" not in wire.header_of(content)
