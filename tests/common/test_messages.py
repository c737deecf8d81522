"""Messages: every field travels in both encodings, and what comes in is exactly a message or is refused."""

from dataclasses import dataclass, field, fields, replace
from typing import get_type_hints

import numpy as np
import pytest
from fedgrpo.common.adapter.adapter import Adapter
from fedgrpo.common.adapter.schema import AdapterSchema, Module, Vector
from fedgrpo.common.errors import ProtocolError
from fedgrpo.common.messages import frames, messages, wire
from fedgrpo.common.messages.encoding import from_fields, keys, to_fields
from fedgrpo.common.messages.frames import Frame
from fedgrpo.common.messages.messages import (
    NETWORK_ONLY,
    NO_WORDS,
    EvaluateTask,
    Evaluation,
    Tally,
    TaskId,
    TrainTask,
    Update,
    Words,
)
from hypothesis import given
from hypothesis import strategies as st

SCHEMA = AdapterSchema(modules=(Module("q", 6, 5),), rank=2, alpha=4, holds=("B",), seed=1, tiny_size=0)
ADAPTER = Adapter(SCHEMA, np.arange(SCHEMA.size, dtype=np.float32))
TEXT, COUNT = st.text(max_size=8), st.integers(0, 2**40)
OF_TYPE = {
    str: TEXT,
    int: COUNT,
    float: st.floats(0, 9),
    bool: st.booleans(),
    tuple[str, ...]: st.lists(st.text("abc/-", min_size=1), max_size=3).map(tuple),
    dict[str, float]: st.dictionaries(st.sampled_from(["reward/mean", "policy/kl"]), st.floats(-9, 9)),
    AdapterSchema: st.just(SCHEMA),
    Adapter: st.just(ADAPTER),
    Vector: st.just(ADAPTER.vector),
    Words: st.sampled_from([NO_WORDS, np.arange(7, dtype="<u4"), np.arange(5, dtype="<u2")]),
    dict[str, str]: st.dictionaries(TEXT, TEXT, max_size=3),
}


def some(kind):
    """Any value of a type: of a dataclass, one with any value in each field."""
    if kind not in OF_TYPE:
        hints = get_type_hints(kind)
        OF_TYPE[kind] = st.builds(kind, **{each.name: some(hints[each.name]) for each in fields(kind)})
    return OF_TYPE[kind]


OF_TYPE[dict[str, Tally]] = st.dictionaries(TEXT, some(Tally), max_size=3)
PARTS = (Tally, TaskId)
KINDS = [kind for kind in vars(messages).values() if isinstance(kind, type) and kind.__module__ == messages.__name__]
MESSAGES = st.one_of(*(some(kind) for kind in KINDS if kind not in PARTS))


def over_the_network(message):
    """The message as the other side reads it from a Flower record."""
    array = next((getattr(message, name) for name in ("adapter", "delta") if hasattr(message, name)), None)
    vector = array.vector if isinstance(array, Adapter) else array
    if (words := getattr(message, "words", None)) is not None:
        content = wire.record_of(message, array=wire.packed_words(words) if words.size else None)
        read = wire.words_of(content, words.size, words.dtype) if words.size else words
        return wire.message_of(type(message), content, words=read)
    content = wire.record_of(message, array=None if vector is None else wire.packed(vector))
    beside = {}
    if vector is not None:
        read = wire.vector_of(content, vector.size)
        beside = {"adapter": Adapter(SCHEMA, read)} if isinstance(array, Adapter) else {"delta": read}
    if isinstance(message, Update):
        beside["metrics"] = wire.metrics_of(content, frozenset(message.metrics))
    return wire.message_of(type(message), content, **beside)


def over_the_socket(message):
    """The message as the other side reads it from the socket's bytes."""
    frame = Frame.unpack(frames.frame_of(message).pack())
    if isinstance(message, TrainTask | EvaluateTask):
        return frames.task_of(type(message), frame, SCHEMA)
    if hasattr(message, "words"):
        return frames.words_message_of(type(message), frame)
    return frames.update_of(frame) if isinstance(message, Update) else frames.message_of(type(message), frame)


def same(one, other):
    """Whether two messages are equal in every field; arrays are compared by value."""
    for each in fields(one):
        mine, theirs = getattr(one, each.name), getattr(other, each.name)
        if isinstance(mine, Adapter):
            mine, theirs = mine.vector, theirs.vector
        if not np.array_equal(mine, theirs) if isinstance(mine, np.ndarray) else mine != theirs:
            return False
    return type(one) is type(other)


@given(MESSAGES)
def test_every_message_comes_back_from_both_encodings_as_it_was(message):
    assert same(over_the_network(message), message)
    private = {each.name: each.default for each in fields(message) if "network_only" in each.metadata}
    assert same(over_the_socket(message), replace(message, **private))


@dataclass(frozen=True, slots=True, kw_only=True)
class LongerTask(TrainTask):
    """A task with a field more, written once and nowhere else."""

    patience: int = 0
    trace: str = field(default="", metadata=NETWORK_ONLY)


def test_a_new_field_is_written_once_and_travels_in_both_encodings():
    task = LongerTask(federation="f", round=1, attempt=1, adapter=ADAPTER, position=0, patience=7, trace="t")
    sent = wire.record_of(task, array=wire.packed(ADAPTER.vector))
    assert (sent["header"]["patience"], sent["header"]["trace"]) == (7, "t")
    assert wire.message_of(LongerTask, sent, adapter=ADAPTER).patience == 7
    frame = frames.frame_of(task)
    assert "trace" not in frame.fields
    assert frames.task_of(LongerTask, frame, SCHEMA).patience == 7


def test_the_learner_does_not_see_what_differs_between_repetitions_of_a_task():
    """Its cache answers a repeated task: the nonce of a server that was started again must not change the request."""
    task = TrainTask(federation="f", round=1, attempt=1, adapter=ADAPTER, position=0, nonce="a", last_refusal="norm")
    again = replace(task, nonce="b", last_refusal="", config_sha256="c")
    assert frames.frame_of(task).pack() == frames.frame_of(again).pack()


GOOD = to_fields(TrainTask(federation="f", round=1, attempt=1, adapter=ADAPTER, position=0))


@pytest.mark.parametrize(
    "change",
    [
        {"round": True},
        {"round": 1.0},
        {"round": "1"},
        {"round": None},
        {"federation": 7},
        {"federation": b"f"},
        {"position": [1]},
        {"more": 1},
    ],
)
def test_fields_that_are_not_exactly_a_messages_are_refused(change):
    assert from_fields(TrainTask, GOOD, {"adapter": ADAPTER}).round == 1
    values = {key: value for key, value in {**GOOD, **change}.items() if value is not None}
    with pytest.raises(ProtocolError) as caught:
        from_fields(TrainTask, values, {"adapter": ADAPTER})
    assert next(iter(change)) in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "null", "[1]", '{"total": 3}', '{"total": [1, 2]}', '{"total": [true,0,0,0,0,0,0,0,0,0]}', "[" * 90_000],
)
def test_a_text_that_is_not_what_it_should_be_is_refused_with_a_short_message(text):
    with pytest.raises(ProtocolError) as caught:
        from_fields(Evaluation, {"tallies": text, "federation": "f", "round": 1}, {})
    assert caught.value.code == "tallies"
    assert len(str(caught.value)) < 200


def test_a_reply_repeats_every_field_of_its_task_id():
    task = TrainTask(federation="f", round=3, attempt=2, adapter=ADAPTER, position=0, nonce="n", config_sha256="c")
    assert TaskId.of(task) == TaskId(federation="f", round=3, attempt=2, nonce="n", config_sha256="c")
    assert set(keys(TaskId)) <= set(keys(Update))
    assert not set(keys(TaskId)) & set(keys(Update, network=False))
