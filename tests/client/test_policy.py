"""The policy: what an organisation does not allow is refused by the key's name, before any work."""

import json
import tomllib
from dataclasses import replace

import numpy as np
import pytest
from federation import metrics, schema, settings
from fedgrpo.client import main
from fedgrpo.client.commands.client import TEMPLATE
from fedgrpo.client.commands.dry_run import allowed_run
from fedgrpo.client.learner.service.guard import GuardedLearner
from fedgrpo.client.learner.service.ledger import Ledger
from fedgrpo.client.organisation import policy
from fedgrpo.client.organisation.bundle import APP_SHA256
from fedgrpo.client.organisation.settings import Organisation, OrganisationFile
from fedgrpo.common.adapter.adapter import Adapter
from fedgrpo.common.aggregation.weights import WEIGHTS
from fedgrpo.common.errors import ConfigError, PolicyError, ProtocolError
from fedgrpo.common.flower_private import identify_process
from fedgrpo.common.messages import wire
from fedgrpo.common.messages.frames import MAX_FIELDS_BYTES, VERSION, Frame, frame_of
from fedgrpo.common.messages.messages import Capabilities, EvaluateTask, Evaluation, Tally, TrainTask, Update
from fedgrpo.common.messages.metric_names import TRAIN_METRICS
from fedgrpo.common.settings import toml
from fedgrpo.common.settings.bundle import installed_sha256
from fedgrpo.common.settings.run_config import RunConfig
from fedgrpo.common.storage.jsonl import read_lines
from flwr.app import Context, Message, RecordDict
from organisations import ALLOWED, organisation_file


class Worker:
    """A learner that counts what it is asked to do."""

    def __init__(self, own):
        self.own, self.worked = own, 0

    def capabilities(self):
        return Capabilities(
            organisation="clinic",
            schema=self.own,
            base_model_sha256="0" * 64,
            reward_names=("correctness", "secret-protocol"),
            metrics=tuple(metrics()),
            examples=9,
            prompts_too_long=0,
            held_out=20,
            device="cuda",
            memory_bytes=7,
            tokens_per_second=3.0,
        )

    def train(self, task):
        self.worked += 1
        delta = np.full(self.own.size, 100.0, np.float32)
        return Update(delta=delta, num_steps=1, num_examples=4, metrics=metrics())

    def evaluate(self, task):
        self.worked += 1
        return Evaluation.of(tally(14), {"steps=1": tally(9), "steps=2": tally(2), "steps=3": tally(3)})


OPENS = {
    "privacy.mode": "policy.privacy",
    "aggregation.method": "policy.methods",
    "adapter.target-modules": "policy.target-modules",
    "federation.min-updates": "policy.min-members",
    "adapter.rank": "policy.max-rank",
    "federation.rounds": "policy.max-rounds",
    "train.steps-per-round": "policy.max-steps-per-round",
    "grpo.learning-rate": "policy.max-learning-rate",
    "grpo.num-generations": "policy.max-generations",
    "grpo.per-device-train-batch-size": "policy.max-completions-per-step",
    "grpo.max-completion-length": "policy.max-new-tokens",
}
"""What is refused under an empty policy -> what has to be allowed for it."""


def guard(make, own, config):
    return GuardedLearner(make, own, config, Ledger(None, own.policy))


def test_a_policy_that_says_nothing_allows_nothing(tmp_path):
    config = settings(tmp_path)
    names = {"model.name": "builtin", "policy.min-groups": 4}
    own = toml.with_values(Organisation(), names)
    refused = []
    for _ in OPENS:
        with pytest.raises(PolicyError) as caught:
            policy.check_run(OrganisationFile(tmp_path, own), config)
        refused.append(caught.value.key)
        opened = OPENS[caught.value.key]
        own = toml.with_values(own, {opened: ALLOWED[opened]})
    assert sorted(refused) == sorted(OPENS)
    policy.check_run(OrganisationFile(tmp_path, own), config)


BEYOND = {
    "aggregation.method": "fedex",
    "model.name": "another/model",
    "adapter.rank": 9,
    "federation.rounds": 11,
    "federation.min-updates": 1,
    "federation.clients-per-round": 1,
    "adapter.alpha": 65,
    "train.steps-per-round": 5,
    "train.seconds-per-round": 60.0,
    "grpo.learning-rate": 0.02,
    "grpo.num-generations": 16,
    "grpo.max-completion-length": 257,
    "grpo.per-device-train-batch-size": 80,
    "evaluation.max-completion-length": 300,
    "evaluation.batch-size": 76,
    "evaluation.classes": "steps,patient",
    "train.block-size": 2,
    "grpo.temperature": 0.05,
    "grpo.top-k": 2,
    "grpo.top-p": 0.1,
}


SHOWN_AS = {"federation.clients-per-round": "federation.min-updates"}
HARMLESS = {
    "privacy.mode": "an organisation with policy.privacy = secagg takes part in no other mode: OPENS",
    "privacy.noise-multiplier": "noise on its update, which takes nothing from it but use",
    "privacy.delta": "for which epsilon is stated",
    "privacy.clip-norm": "scales an update down, which max-delta-norm bounds; a coarse grid is refused",
    "privacy.step-timeout-s": "how long the server waits",
    "federation.seed": "below 2^32",
    "model.revision": "the organisation pins the model by its hash",
    "model.dtype": "one of four",
    "grpo.gradient-accumulation-steps": "counts towards max-completions-per-step",
    "grpo.max-prompt-length": "max-left-out-share and min-groups bound what it leaves",
    "evaluation.temperature": "only answers are sampled by it, and only two values a run",
    "evaluation.problems": "the organisation answers its own held-out problems, all of them",
    "evaluation.every": "max-rounds bounds how often",
    "adapter.tiny-size": "max-bytes-per-round bounds it",
    "compression.up": "fewer bytes of the same delta, no longer than max-delta-norm",
    "compression.down": "what the server sends",
    "compression.error-feedback": "what is left of a delta goes into the next, which is clipped as any",
    "compression.top-share": "at most all of the delta",
    "train.prox": "acts on the loss alone",
    "train.replay": "its own groups again, from its own disk, in a step that has no more groups for it",
    "train.replay-rounds": "as train.replay, of which a bounded number is kept",
    "train.optimizer-state": "files of the adapter's size on its own disk; the delta alone leaves, clipped",
    "train.min-signal": "fewer steps than max-steps-per-round, and how many depends on whole blocks",
    "train.prompt-selection": "whole blocks of min-groups prompts are drawn, and what they have shown stays",
    "dp.noise-multiplier": "max-epsilon bounds what it costs, and refuses private runs or all others",
    "dp.clip-norm": "noise is in proportion to it",
    "dp.delta": "max-delta bounds it",
    "dp.prompts-per-unit": "a step samples them in pieces of its own size",
}
"""Why a setting that acts on the client needs no limit of its own. Other GRPO settings act on the loss alone."""
SERVER_ONLY = ("simulation.", "backend.", "output.", "intake.", "aggregation.", "federation.", "gate.")
LOSS_ONLY = {
    f"grpo.{name}"
    for name in (
        "lr-scheduler-type", "warmup-ratio", "beta", "kl-reference", "epsilon", "epsilon-high", "delta", "loss-type",
        "scale-rewards", "importance-sampling-level", "multi-objective-aggregation", "num-iterations",
        "mask-truncated-completions", "max-grad-norm", "weight-decay", "adam-beta1", "adam-beta2",
        "optim", "off-policy-mask-threshold",
    )
}  # fmt: skip


def test_every_setting_is_limited_or_known_to_be_harmless():
    limited = set(OPENS) | set(BEYOND)
    known = limited | set(HARMLESS) | LOSS_ONLY
    unknown = [k for k in RunConfig().flat() if k not in known and not k.startswith(SERVER_ONLY)]
    assert unknown == []


@pytest.mark.parametrize("key", BEYOND)
def test_a_run_beyond_the_policy_is_refused_by_the_name_of_the_servers_setting(tmp_path, key):
    config = settings(tmp_path)
    policy.check_run(organisation_file(tmp_path), config)
    made = []
    with pytest.raises(PolicyError) as caught:
        guard(lambda: made.append(1), organisation_file(tmp_path), config.with_values({key: BEYOND[key]}))
    assert caught.value.key == SHOWN_AS.get(key, key)
    assert not made  # no model was loaded for it


PRIVATE = {"dp.noise-multiplier": 1.0, "grpo.loss-type": "grpo", "aggregation.weights": "uniform"}


@pytest.mark.parametrize(
    ("allowed", "asked", "key"),
    [
        ({}, PRIVATE, "dp.noise-multiplier"),
        ({"policy__max_epsilon": 8.0}, {}, "dp.noise-multiplier"),
        ({"policy__max_epsilon": 8.0, "policy__max_delta": 1e-6}, PRIVATE, "dp.delta"),
        ({"policy__max_epsilon": 8.0}, PRIVATE, ""),
        ({"policy__max_epsilon": 8.0, "policy__min_groups": 7}, PRIVATE, ""),
        ({}, {}, ""),
    ],
)
def test_a_privacy_budget_allows_private_runs_and_no_others(tmp_path, allowed, asked, key):
    """A private round has no blocks, so min-groups does not matter to it."""
    own, config = organisation_file(tmp_path, **allowed), settings(tmp_path).with_values(asked)
    if not key:
        policy.check_run(own, config)
        return
    with pytest.raises(PolicyError) as caught:
        policy.check_run(own, config)
    assert caught.value.key == key


@pytest.mark.parametrize("wanted", ["q_proj,mlp", "all-linear", "Q_PROJ", "q_proj,"])
def test_only_the_layers_named_may_be_adapted(tmp_path, wanted):
    own = organisation_file(tmp_path, policy__target_modules=["q_proj", "v_proj"])
    policy.check_run(own, settings(tmp_path).with_values({"adapter.target-modules": "v_proj, q_proj"}))
    with pytest.raises(PolicyError, match="target-modules"):
        policy.check_run(own, settings(tmp_path).with_values({"adapter.target-modules": wanted}))


def test_gradient_accumulation_counts_towards_the_completions_of_a_step(tmp_path):
    config = settings(tmp_path).with_values({"grpo.gradient-accumulation-steps": 3})
    with pytest.raises(PolicyError, match="96"):
        policy.check_run(organisation_file(tmp_path), config)


def test_a_round_of_too_few_groups_and_a_delta_of_too_many_bytes_are_refused(tmp_path):
    config = settings(tmp_path)
    with pytest.raises(PolicyError) as caught:
        policy.check_run(organisation_file(tmp_path, policy__min_groups=5), config)
    assert caught.value.key == "train.steps-per-round"
    small = organisation_file(tmp_path, policy__max_bytes_per_round=4 * N - 1)
    with pytest.raises(PolicyError) as caught:
        guard(lambda: Worker(schema(config)), small, config)
    assert caught.value.key == "adapter.rank"


def guarded(tmp_path, **changes):
    config = settings(tmp_path)
    worker = Worker(schema(config))
    return guard(lambda: worker, organisation_file(tmp_path, **changes), config), worker, config


def task(config, **changes):
    place = {"federation": "fed-1", "round": 1, "attempt": 1, "position": 0}
    return TrainTask(adapter=Adapter.initial(schema(config)), **{**place, **changes})


def test_only_what_the_policy_names_leaves(tmp_path):
    learner, _, config = guarded(tmp_path)
    can = learner.capabilities()
    assert can.metrics == ("reward/mean", *(name for name in TRAIN_METRICS if name.startswith("groups/")))
    assert can.reward_names == ()
    assert (can.device, can.memory_bytes, can.tokens_per_second) == ("unknown", 0, 0.0)
    update = learner.train(task(config))
    assert tuple(update.metrics) == can.metrics
    assert float(np.linalg.norm(update.delta)) == pytest.approx(10.0, rel=1e-5)  # max-delta-norm
    found = learner.evaluate(EvaluateTask(federation="f", round=0, adapter=task(config).adapter, temperature=0.0))
    assert list(found.classes) == ["steps=1"]


def test_the_file_that_init_writes_lets_out_the_least_that_a_run_needs_and_names_the_rest():
    text = TEMPLATE.read_text()
    (line,) = (line for line in text.splitlines() if line.startswith("metrics = "))
    rules = replace(Organisation().policy, metrics=tuple(tomllib.loads(line)["metrics"]))
    needed = WEIGHTS[RunConfig().aggregation.weights].metrics
    assert set(policy.metrics_that_leave(rules, ())) == set(needed)
    for area in {name.partition("/")[0] for name in TRAIN_METRICS}:
        assert f'"{area}/' in text


def tally(problems):
    return Tally(problems=problems, correct=1, lenient=1)


@pytest.mark.parametrize(
    ("sizes", "leaving"),
    [
        ((95, 5), []),  # the one that is left out would be total less the other
        ((80, 10, 5, 5), [80, 10]),  # the rest is 10, and nobody knows of which
        ((80, 15, 5), [80]),
        ((50, 50), [50, 50]),
        ((90,), [90]),
        ((4, 4, 4), []),
    ],
)
def test_no_small_class_comes_out_as_the_rest(tmp_path, sizes, leaving):
    own = organisation_file(tmp_path, policy__min_class_problems=10).policy
    classes = {f"steps={i}": tally(n) for i, n in enumerate(sizes)} | {"style=reasoned": tally(sum(sizes))}
    found = policy.evaluation_that_leaves(own, Evaluation.of(tally(sum(sizes)), classes))
    assert [t.problems for t in found.classes.values()] == leaving  # and no style: the policy does not name it


def test_a_server_cannot_choose_single_prompts_by_their_length(tmp_path):
    config = settings(tmp_path)

    def of(examples, too_long):
        worker = Worker(schema(config))
        can = worker.capabilities()
        worker.capabilities = lambda: replace(can, examples=examples, prompts_too_long=too_long)
        return guard(lambda: worker, organisation_file(tmp_path), config)

    of(60, 60)
    for examples, too_long in ((1, 0), (3, 0), (50, 60)):
        with pytest.raises(PolicyError) as caught:
            of(examples, too_long)
        assert caught.value.key == "grpo.max-prompt-length"


def test_a_single_reward_that_may_leave_takes_its_name_along_and_no_other(tmp_path):
    learner, _, _ = guarded(tmp_path, policy__metrics=["reward/correctness/*"], policy__report_hardware=True)
    assert learner.capabilities().reward_names == ("correctness",)
    assert learner.capabilities().device == "cuda"


def test_it_declares_held_out_problems_only_where_their_counts_may_leave(tmp_path):
    assert guarded(tmp_path, policy__min_class_problems=20)[0].capabilities().held_out == 20
    for changes in ({"policy__evaluate": False}, {"policy__min_class_problems": 21}):
        assert guarded(tmp_path, **changes)[0].capabilities().held_out == 0


def test_counts_stay_where_the_policy_keeps_them(tmp_path):
    for changes in ({"policy__evaluate": False}, {"policy__min_class_problems": 20}):
        learner, worker, config = guarded(tmp_path, **changes)
        with pytest.raises(PolicyError):
            learner.evaluate(EvaluateTask(federation="f", round=1, adapter=task(config).adapter, temperature=0.0))
        assert worker.worked == (0 if "policy__evaluate" in changes else 1)


# What a hostile server may send in a training message: every class is refused, and nothing is trained.
N = 40
HOSTILE_TASKS = {
    "no header": lambda c: c.pop("header"),
    "another protocol": {"protocol": wire.PROTOCOL - 1},
    "a protocol that is text": {"protocol": "2"},
    "no federation": {"federation": None},
    "a federation that is a path": {"federation": "../../etc/passwd"},
    "a federation that is a number": {"federation": 7},
    "an endless federation": {"federation": "x" * 100_000},
    "an empty federation": {"federation": ""},
    "round 0": {"round": 0},
    "a negative round": {"round": -1},
    "a round after the last": {"round": 4},
    "a huge round": {"round": 2**62},
    "a round that is true": {"round": True},
    "a round that is text": {"round": "1"},
    "a round that is a float": {"round": 1.0},
    "a round that is a list": {"round": [1]},
    "attempt 0": {"attempt": 0},
    "an attempt without end": {"attempt": 101},
    "a negative position": {"position": -1},
    "a huge position": {"position": 2**60},
    "a position that is a float": {"position": 0.5},
    "no nonce": {"nonce": None},
    "a nonce that is bytes": {"nonce": b"x"},
    "a nonce that is markup": {"nonce": "[/x]"},
    "a nonce with control characters": {"nonce": "\x1b[2J"},
    "another schema": {"schema-sha256": "f" * 64},
    "another configuration": {"config-sha256": "f" * 64},
    "a refusal that is no text": {"last-refusal": 3},
    "no array": lambda c: c.pop("vector"),
    "two arrays": lambda c: c.update({"more": c["vector"]}),
    "an adapter too short": np.zeros(N - 1, np.float32),
    "an adapter too long": np.zeros(N + 1, np.float32),
    "an adapter of NaN": np.full(N, np.nan, np.float32),
    "an adapter with one infinity": np.array([np.inf] + [0.0] * (N - 1), np.float32),
    "an empty adapter": np.zeros(0, np.float32),
}
OWN_BUNDLE = {APP_SHA256: installed_sha256()}
"""What the executor adds to a node's configuration (tests/client/test_bundle.py)."""


def ask(own, worker, config, change, kind="train"):
    """Send the relay of an organisation a message, its learner in this process; the reply's content."""
    identify_process()
    adapter = Adapter(worker.own, np.zeros(N, np.float32))
    place = {"federation": "fed-1", "round": 1, "attempt": 1, "adapter": adapter, "config_sha256": config.sha256}
    train = TrainTask(**place, position=0, nonce="n", schema_sha256=worker.own.sha256)
    sent = train if kind == "train" else EvaluateTask(**place, temperature=0.0)
    content = wire.record_of(sent, array=wire.packed(change if isinstance(change, np.ndarray) else adapter.vector))
    if callable(change):
        change(content)
    elif isinstance(change, dict):
        for key, value in change.items():
            content["header"].pop(key, None)
            if value is not None:
                content["header"][key] = value
    context = Context(1, 7, {"config-path": str(own.file), **OWN_BUNDLE}, RecordDict(), config.flat())
    return main.app(Message(content, 7, kind), context).content


@pytest.fixture
def organisation(tmp_path, monkeypatch):
    own, config = organisation_file(tmp_path), settings(tmp_path)
    worker = Worker(schema(config))
    monkeypatch.setattr(main, "RemoteLearner", lambda *_: guard(lambda: worker, own, config))
    return own, worker, config


@pytest.mark.parametrize("name", HOSTILE_TASKS)
def test_a_hostile_task_is_refused_and_nothing_is_trained(organisation, name):
    own, worker, config = organisation
    reply = ask(own, worker, config, HOSTILE_TASKS[name])
    assert list(reply) == ["header"]
    assert set(reply["header"]) == {"protocol", "error"}
    assert worker.worked == 0


@pytest.mark.parametrize("temperature", [-1.0, float("nan"), float("inf"), 11.0, 0.5, "0", True])
def test_a_hostile_evaluation_is_refused_and_nothing_is_answered(organisation, temperature):
    own, worker, config = organisation
    assert "error" in ask(own, worker, config, {"temperature": temperature}, "evaluate")["header"]
    assert worker.worked == 0
    assert "tallies" in ask(own, worker, config, {}, "evaluate")["header"]  # the same without the hostile value


def test_everything_that_leaves_is_on_the_record_and_a_record_that_fails_stops_it(organisation):
    own, worker, config = organisation
    reply = ask(own, worker, config, {})
    (line,) = read_lines(own.egress_record)
    assert (line["answers"], line["sent"], line["organisation"]) == ("train", True, "clinic")
    names = [f["name"] for f in line["fields"]]
    assert sorted(names) == sorted(f"{record}.{key}" for record in reply for key in reply[record])
    assert own.egress_record.stat().st_mode & 0o077 == 0
    own.egress_record.unlink()
    own.egress_record.mkdir()
    reply = ask(own, worker, config, {})
    assert dict(reply["header"]) == {"protocol": wire.PROTOCOL, "error": "egress-record"}
    assert list(reply) == ["header"]


def test_a_dry_run_records_and_sends_a_code(organisation, monkeypatch):
    own, _, config = organisation
    context = {"config-path": str(own.file), "dry-run": True, **OWN_BUNDLE}
    monkeypatch.setattr(Context, "node_config", context, raising=False)
    identify_process()
    message = Message(wire.pack({"config-sha256": config.sha256}), 7, "query.join")
    reply = main.app(message, Context(1, 7, context, RecordDict(), config.flat())).content
    assert dict(reply["header"]) == {"protocol": wire.PROTOCOL, "error": "dry-run"}
    (line,) = read_lines(own.folder / "rehearsal.jsonl")
    assert read_lines(own.egress_record) == []
    assert line["sent"] is False
    assert any(f["name"] == "header.schema" for f in line["fields"])


def test_a_refusal_tells_the_server_its_key_and_not_the_limit(organisation, monkeypatch):
    own, worker, config = organisation
    large = config.with_values({"adapter.rank": 9})
    monkeypatch.setattr(main, "RemoteLearner", lambda *_: guard(lambda: worker, own, large))
    reply = ask(own, worker, large, {})
    assert dict(reply["header"]) == {"protocol": wire.PROTOCOL, "error": "policy.adapter.rank"}


@pytest.mark.parametrize("members", [1, 2, 3, 7])
def test_the_run_that_a_check_assumes_is_one_the_policy_allows(tmp_path, members):
    own = organisation_file(tmp_path, policy__min_members=members, policy__max_alpha=5)
    policy.check_run(own, allowed_run(own))


def test_a_mistyped_policy_is_named_and_not_ignored(tmp_path):
    file = tmp_path / "clinic.toml"
    file.write_text("[policy]\nmax-ranks = 8\n")
    with pytest.raises(ConfigError, match=r"max-ranks. Did you mean policy.max-rank\?"):
        OrganisationFile.read(file)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no newline",
        b"[1]\n",
        b"{}\n",
        b'{"version":%d}\n' % (VERSION + 1),
        b'{"version":%d}\nabc' % VERSION,
        b"[" * 100_000 + b"\n",
    ],
)
def test_bytes_that_are_no_frame_are_refused_as_such(data):
    with pytest.raises(ProtocolError):
        Frame.unpack(data)


def test_a_frame_is_refused_for_its_size_alone():
    line = b'{"version":%d,"round":1}' % VERSION
    assert Frame.unpack(line.ljust(MAX_FIELDS_BYTES) + b"\n").fields == {"round": 1}
    with pytest.raises(ProtocolError, match="not a frame"):
        Frame.unpack(line.ljust(MAX_FIELDS_BYTES + 1) + b"\n")


def test_a_field_that_is_missing_or_of_another_type_is_refused_when_it_is_read():
    frame = Frame.unpack(b'{"version":%d,"round":true,"kind":"train"}\n' % VERSION + b"\0" * 8)
    assert frame.get("kind", str) == "train"
    for key in ("round", "kind", "none"):
        with pytest.raises(ProtocolError, match=key):
            frame.get(key, int)


def test_a_frame_comes_back_as_it_went(tmp_path):
    config = settings(tmp_path)
    sent = frame_of(task(config, position=12))
    again = Frame.unpack(sent.pack())
    assert again.fields == json.loads(json.dumps(sent.fields))
    assert (again.vector == sent.vector).all()
