"""What the server believes of a reply: nothing that is not exactly right."""

import json

import numpy as np
import pytest
from federation import metrics, schema, settings
from fedgrpo.common.errors import ProtocolError
from fedgrpo.common.messages import wire
from fedgrpo.common.messages.messages import Capabilities, EvaluateTask, TaskId
from fedgrpo.common.messages.metric_names import RoundWork, range_of
from fedgrpo.common.settings.run_config import RunConfig
from fedgrpo.server.federation.intake import read_capabilities, read_evaluation, read_update
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

EXPECTED = {
    "federation": "fed-1",
    "round": 2,
    "attempt": 1,
    "nonce": "ab",
    "schema-sha256": "s",
    "config-sha256": "c",
}
WORK = {"num-steps": 1, "num-examples": 4}
TASK = TaskId(**{key.replace("-", "_"): value for key, value in EXPECTED.items()})
QUESTION = EvaluateTask(federation="fed-1", round=2, adapter=None, temperature=1.0)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return schema(settings(tmp_path_factory.mktemp("unused")))


def reply(own, header=None, vector=None, found=None):
    size = own.size
    content = wire.pack({**EXPECTED, **WORK, **(header or {})})
    data = np.ones(size, np.float32) if vector is None else vector
    content["vector"] = ArrayRecord(
        {"vector": Array("fp32", (size,), wire.KIND + "fp32", data.astype("<f4").tobytes())}
    )
    return wire.with_metrics(content, found or metrics())


def member(own):
    return Capabilities(
        organisation="a",
        schema=own,
        base_model_sha256="",
        reward_names=("correctness",),
        metrics=tuple(metrics()),
        examples=9,
        prompts_too_long=0,
    )


def read(content, own, **limits):
    values = {"train.steps-per-round": 1, **{f"intake.{k.replace('_', '-')}": v for k, v in limits.items()}}
    return read_update(content, member(own), TASK, RunConfig().with_values(values))


def test_a_sound_update_comes_through_unchanged(own):
    update = read(reply(own), own)
    assert update.delta.tolist() == [1.0] * own.size
    assert update.num_examples == 4
    assert update.metrics == metrics()


def with_array(array, name="vector", record="vector"):
    def change(content):
        del content["vector"]
        content[record] = ArrayRecord({name: array})

    return change


def with_header(**values):
    def change(content):
        content["header"] = ConfigRecord({**content["header"], **{k.replace("_", "-"): v for k, v in values.items()}})

    return change


def with_metric(name, value):
    def change(content):
        content["metrics"] = MetricRecord({**content["metrics"], name: value})

    return change


def raw(values, shape=None, dtype="float32", stype=wire.KIND + "fp32"):
    values = np.asarray(values, "<f4")
    return Array(dtype, shape or values.shape, stype, values.tobytes())


N = 40
HOSTILE = {
    "no array": lambda c: c.pop("vector"),
    "an empty array record": lambda c: c.update({"vector": ArrayRecord({})}),
    "two arrays": lambda c: c.update({"vector": ArrayRecord({"vector": raw([1.0] * N), "more": raw([1.0])})}),
    "two array records": lambda c: c.update({"more": ArrayRecord({"vector": raw([1.0])})}),
    "another array name": with_array(raw([1.0] * N), name="delta"),
    "too short": with_array(raw([1.0] * (N - 1))),
    "too long": with_array(raw([1.0] * (N + 1))),
    "a broadcastable shape": with_array(raw([1.0])),
    "two dimensions": with_array(raw([1.0] * N, shape=(N, 1))),
    "fewer bytes than said": with_array(Array("fp32", (N,), wire.KIND + "fp32", b"\0" * (4 * N - 1))),
    "more bytes than said": with_array(Array("fp32", (N,), wire.KIND + "fp32", b"\0" * (4 * N + 1))),
    "no bytes": with_array(Array("fp32", (N,), wire.KIND + "fp32", b"")),
    "a numpy file": with_array(Array(np.ones(N, np.float32))),
    "a pickle": with_array(Array("fp32", (N,), "numpy.ndarray", b"\x80\x04.")),
    "int64": with_array(raw([1.0] * N, dtype="int64")),
    "float64": with_array(Array("float64", (N,), wire.KIND + "fp32", np.ones(N).tobytes())),
    "NaN": with_array(raw([float("nan")] * N)),
    "one NaN": with_array(raw([1.0] * (N - 1) + [float("nan")])),
    "infinity": with_array(raw([float("inf")] * N)),
    "minus infinity": with_array(raw([1.0] * (N - 1) + [float("-inf")])),
    "no header": lambda c: c.pop("header"),
    "another protocol": with_header(protocol=1),
    "another federation": with_header(federation="fed-2"),
    "an earlier round": with_header(round=1),
    "a later round": with_header(round=3),
    "an earlier attempt": with_header(attempt=0),
    "a replayed nonce": with_header(nonce="aa"),
    "a round that is true": with_header(round=True),
    "a round that is a float": with_header(round=2.0),
    "another schema": with_header(schema_sha256="t"),
    "another configuration": with_header(config_sha256="d"),
    "a header field too many": with_header(note="hello"),
    "no examples": with_header(num_examples=0),
    "negative examples": with_header(num_examples=-4),
    "more examples than asked for": with_header(num_examples=10**18),
    "fewer examples than asked for": with_header(num_examples=3),
    "a record too many": lambda c: c.update({"more": ConfigRecord({"x": "y" * 10**6})}),
    "groups that contradict each other": with_metric("groups/zero-variance-share", 1.0),
    "no steps": with_header(num_steps=0),
    "more steps than asked for": with_header(num_steps=2, num_examples=8),
    "steps that are true": with_header(num_steps=True),
    "steps that are missing": lambda c: c["header"].pop("num-steps"),
    "examples that are a float": with_header(num_examples=4.0),
    "examples that are true": with_header(num_examples=True),
    "examples that are text": with_header(num_examples="4"),
    "an error report": with_header(error="reward"),
    "an error report of absurd length": with_header(error="x" * 100_000),
    "no metrics": lambda c: c.pop("metrics"),
    "a metric too few": lambda c: c["metrics"].pop("reward/mean"),
    "a metric too many": with_metric("patient/name", 1.0),
    "a metric that is NaN": with_metric("reward/mean", float("nan")),
    "a metric that is infinite": with_metric("reward/mean", float("inf")),
    "a metric beyond reason": with_metric("reward/mean", 1e30),
    "a metric that is an int": with_metric("reward/mean", 1),
    "a metric that is a list": with_metric("reward/mean", [1.0]),
    "more effective groups than prompts": with_metric("groups/effective", 1e9),
    "negative effective groups": with_metric("groups/effective", -1.0),
    "a share above one": with_metric("groups/zero-variance-share", 1.5),
    "negative seconds": with_metric("seconds/total", -1.0),
    "seconds beyond a season": with_metric("seconds/generate", 1e8),
    "negative tokens": with_metric("tokens/total", -5.0),
    "half a token": with_metric("tokens/total", 0.5),
    "more tokens than the run's settings allow": with_metric("tokens/total", 1e15),
    "a few more tokens than that": with_metric("tokens/total", 32.0 * (2 * 512 + 256) + 1),
    "completions longer than their limit": with_metric("completion/mean-length", 257.0),
    "a negative length": with_metric("completion/mean-length", -1.0),
    "a negative KL": with_metric("policy/kl", -1e15),
    "a KL beyond reason": with_metric("policy/kl", 1e9),
    "a negative entropy": with_metric("policy/entropy", -0.5),
    "a negative norm": with_metric("policy/grad-norm", -1.0),
    "a negative spread": with_metric("reward/std", -0.1),
    "a negative spread of its own reward": with_metric("reward/correctness/std", -0.1),
    "a reward of its own beyond reason": with_metric("reward/correctness/mean", 1e14),
    "a share of right groups above one": with_metric("groups/all-right-share", 1.01),
    "a negative share": with_metric("completion/loop-share", -0.01),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_reply_is_refused_by_name(own, name):
    assert own.size == N
    content = reply(own)
    HOSTILE[name](content)
    with pytest.raises(ProtocolError) as caught:
        read(content, own)
    assert 0 < len(caught.value.code) <= 64


def test_a_long_update_is_clipped_or_rejected_as_configured(own):
    content = reply(own, vector=np.full(own.size, 1e30, np.float32))
    clipped = read(content, own, max_delta_norm=2.0).delta
    assert float(np.linalg.norm(clipped.astype(np.float64))) == pytest.approx(2.0, rel=1e-5)
    with pytest.raises(ProtocolError, match="the limit is 2"):
        read(content, own, max_delta_norm=2.0, on_large_delta="reject")


SCALARS = st.one_of(
    st.integers(-(2**40), 2**40), st.floats(), st.text(max_size=20), st.booleans(), st.binary(max_size=9)
)


@hypothesis_settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from([*EXPECTED, *WORK, "protocol", "error", "x"]), SCALARS, min_size=1))
def test_no_header_crashes_the_intake(own, changes):
    content = reply(own)
    content["header"] = ConfigRecord({**content["header"], **changes})
    try:
        update = read(content, own)
    except ProtocolError:
        return
    assert update.num_examples == 4
    assert changes.items() <= {**EXPECTED, **WORK, "protocol": wire.PROTOCOL}.items()


def join(own, **changes):
    values = {
        "organisation": "clinic-a",
        "schema": own.to_json(),
        "base-model-sha256": "0" * 64,
        "reward-names": "correctness,own",
        "metrics": "groups/effective,reward/own/mean",
        "device": "cuda",
        "memory-bytes": 1 << 35,
        "tokens-per-second": 900.5,
        "examples": 5,
        "prompts-too-long": 0,
        "held-out": 300,
    }
    return wire.pack({**values, **{k.replace("_", "-"): v for k, v in changes.items()}})


def test_what_a_client_says_when_it_joins(own):
    can = read_capabilities(join(own))
    assert can.reward_names == ("correctness", "own")
    assert can.metrics == ("groups/effective", "reward/own/mean")
    assert can.held_out == 300
    assert (can.device, can.memory_bytes, can.tokens_per_second) == ("cuda", 1 << 35, 900.5)
    assert read_capabilities(join(own, reward_names="", metrics="")).metrics == ()
    for changes in (
        {"organisation": "../../etc"},
        {"organisation": ""},
        {"organisation": "a" * 65},
        {"organisation": 7},
        {"schema": "{}"},
        {"schema": own.to_json().replace('"rank":2', '"rank":-2')},
        {"schema": "x" * 5_000_000},
        {"reward_names": "a,a"},
        {"reward_names": "a b"},
        {"reward_names": ",".join(f"r{i}" for i in range(40))},
        {"examples": -1},
        {"examples": 2.0},
        {"prompts_too_long": -1},
        {"held_out": -1},
        {"held_out": 10**7},
        {"held_out": True},
        {"metrics": "reward/other/mean"},
        {"metrics": "patient/name"},
        {"metrics": "groups/effective,groups/effective"},
        {"metrics": 3},
        {"device": "<script>"},
        {"memory_bytes": -1},
        {"memory_bytes": 1.0},
        {"tokens_per_second": float("nan")},
        {"tokens_per_second": 5},
        {"tokens_per_second": -1.0},
        {"error": "config"},
        {"base_model_sha256": "../../etc"},
        {"base_model_sha256": "\x1b[2J"},
        {"base_model_sha256": ""},
        {"schema": own.to_json().replace("layer.0", "layer\\u001b[2J")},
        {"schema": own.to_json().replace("layer.0", "../layer")},
        {"schema": own.to_json().replace("layer.0", "l" * 300)},
    ):
        with pytest.raises(ProtocolError):
            read_capabilities(join(own, **changes))


GOOD = [10, 5, 6, 0, 100, 2, 1, 8, 2, 1]


def evaluation(tallies, **header):
    text = tallies if isinstance(tallies, str) else json.dumps(tallies)
    return wire.pack({"federation": "fed-1", "round": 2, "tallies": text, **header})


def test_counts_come_through_and_contradictions_do_not():
    found = read_evaluation(evaluation({"total": GOOD, "steps=1": GOOD, "style=reasoned": GOOD}), QUESTION, ("steps",))
    assert (found.total.correct, found.classes["steps=1"].gained) == (5, 2)
    for content in (
        evaluation({"steps=1": GOOD}),
        evaluation({"total": GOOD, "patient=X": GOOD}),
        evaluation({"total": GOOD, "steps=" + "x" * 50_000: GOOD}),
        evaluation({"total": GOOD, "steps=\x1b[2J\nround 99 committed": GOOD}),
        evaluation({"total": [10, 11, 6, 0, 100, 2, 1, 0, 0, 0]}),
        evaluation({"total": [10, 5, 6, 0, 100, 6, 1, 0, 0, 0]}),
        evaluation({"total": [-10, 5, 6, 0, 100, 2, 1, 0, 0, 0]}),
        evaluation({"total": [10.0, 5, 6, 0, 100, 2, 1, 0, 0, 0]}),
        evaluation({"total": [True, 5, 6, 0, 100, 2, 1, 0, 0, 0]}),
        evaluation({"total": GOOD[:-1]}),
        evaluation({"total": [10, 5, 6, 0, 100, 2, 1, 11, 0, 0]}),
        evaluation({"total": [10, 5, 6, 0, 100, 2, 1, 3, 2, 2]}),
        evaluation({"total": [10, 5, 6, 0, 100, 2, 1, 10, 6, 0]}),
        evaluation({"total": [0] * 10}),
        evaluation({"total": GOOD, **{f"steps={i}": GOOD for i in range(300)}}),
        evaluation("not json"),
        evaluation("[1]"),
        evaluation("null"),
        evaluation({"total": GOOD}, round=1),
        evaluation({"total": GOOD}, federation="other"),
        evaluation({"total": GOOD}, error="internal"),
        RecordDict(),
    ):
        with pytest.raises(ProtocolError):
            read_evaluation(content, QUESTION, ("steps",))


@pytest.mark.parametrize(
    "text", ["[" * 99_999, '{"a":' * 50_000, "1e999", '{"total": [1e999, 0, 0, 0, 0, 0, 0, 0, 0, 0]}']
)
def test_hostile_json_is_refused_and_crashes_nothing(own, text):
    with pytest.raises(ProtocolError) as caught:
        read_evaluation(evaluation(text), QUESTION, ())
    assert len(str(caught.value)) < 300
    with pytest.raises(ProtocolError):
        read_capabilities(join(own, schema=text))


@pytest.mark.parametrize(
    ("old", "new"),
    [("6,5]", "1e999,5]"), ("6,5]", "6,10000001]"), ('"rank":2', '"rank":1000000000'), ("6,5]", '"6",-5]')],
)
def test_absurd_shapes_are_refused(own, old, new):
    assert old in own.to_json()
    with pytest.raises(ProtocolError):
        read_capabilities(join(own, schema=own.to_json().replace(old, new)))


def test_a_hostile_value_does_not_fill_the_log(own):
    content = reply(own, header={"nonce": "x" * 10**6})
    with pytest.raises(ProtocolError) as caught:
        read(content, own)
    assert len(str(caught.value)) < 300


def mutated(chance, own):
    """A sound reply with one to three random changes, and whether it is still the same."""
    content = reply(own)
    for _ in range(chance.randint(1, 3)):
        match chance.randint(0, 5):
            case 0:
                key = chance.choice([*content["header"], "new"])
                content["header"][key] = chance.choice([0, 1, -1, 2**70, 1.5, float("nan"), "", "x" * 99, True, b"y"])
            case 1:
                content["header"].pop(chance.choice([*content["header"], "none"]), None)
            case 2:
                key = chance.choice([*content["metrics"], "new"])
                content["metrics"][key] = chance.choice([0, -1.0, 1e300, float("inf"), float("nan"), [1.0], 0.25])
            case 3:
                data = bytearray(content["vector"]["vector"].data)
                data = data[: chance.randrange(len(data) + 1)] + b"\0" * chance.choice([0, 1, 4, 9])
                content["vector"]["vector"] = Array("fp32", (own.size,), wire.KIND + "fp32", bytes(data))
            case 4:
                values = np.ones(own.size, "<f4")
                values[chance.randrange(own.size)] = chance.choice([np.nan, np.inf, -np.inf])
                content["vector"]["vector"] = Array("fp32", (own.size,), wire.KIND + "fp32", values.tobytes())
            case _:
                dtype, stype = (
                    chance.choice(["float32", "int32", ""]),
                    chance.choice([wire.KIND + "fp32", "numpy.ndarray", ""]),
                )
                shape = chance.choice([(own.size,), (1, own.size), (), (-1,)])
                content["vector"]["vector"] = Array(dtype, shape, stype, content["vector"]["vector"].data)
    return content


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(10))
def test_a_hundred_thousand_generated_replies_crash_nothing_and_none_is_taken_that_is_not_sound(own, seed):
    import random

    chance, sound = random.Random(seed), reply(own)
    for _ in range(10_000):
        content = mutated(chance, own)
        try:
            update = read(content, own)
        except ProtocolError:
            continue
        assert dict(content["header"]) == dict(sound["header"])
        assert np.isfinite(update.delta).all()
        assert update.metrics.keys() == metrics().keys()
        assert 0 <= update.metrics["groups/effective"] <= update.num_examples


def test_every_metric_says_what_it_can_be_and_takes_its_bounds():
    work = RoundWork(groups=4, completions=32, prompt_tokens=512, completion_tokens=256)
    for name in metrics():
        allowed = range_of(name)
        high = float(allowed.high(work) if callable(allowed.high) else allowed.high)
        assert allowed.complaint(allowed.low, work) == allowed.complaint(high, work) == ""
        for value in (allowed.low * 1.01 - 0.01, high * 1.01, float("nan"), float("inf"), -float("inf")):
            assert "not from" in allowed.complaint(value, work), (name, value)
    assert range_of("policy/kl").complaint(-1e-7, work) == ""  # noise of rounding


def test_a_client_speaks_for_no_more_held_out_problems_than_it_declared():
    counts = evaluation({"total": GOOD})
    assert read_evaluation(counts, QUESTION, (), held_out=10).total.problems == 10
    with pytest.raises(ProtocolError, match="counts 10 held-out problems, and declared 9"):
        read_evaluation(counts, QUESTION, (), held_out=9)
    with pytest.raises(ProtocolError, match="out of bounds"):
        read_evaluation(counts, QUESTION, (), max_tokens=9)  # 100 tokens in 10 completions
    with pytest.raises(ProtocolError, match="out of bounds"):
        read_evaluation(evaluation({"total": [10**7, *GOOD[1:]]}), QUESTION, ())
