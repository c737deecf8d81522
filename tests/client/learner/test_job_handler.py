"""An organisation's learner from its own file: one resident base model, run after run."""

import json
from dataclasses import replace

import numpy as np
import pytest
from fedgrpo.client.learner.models.model_files import file_hash
from fedgrpo.client.learner.service.job_handler import JobHandler
from fedgrpo.client.learner.service.jobs import Job
from fedgrpo.client.learner.service.tracking import OrganisationTracking
from fedgrpo.client.organisation.settings import Tracking
from fedgrpo.client.relay.error_codes import code_of
from fedgrpo.common.adapter.adapter import Adapter
from fedgrpo.common.errors import ConfigError, PolicyError, ProtocolError
from fedgrpo.common.messages import frames
from fedgrpo.common.messages.frames import Frame
from fedgrpo.common.messages.messages import Capabilities, EvaluateTask, Evaluation, TrainTask
from fedgrpo.common.settings.bundle import installed_sha256
from fedgrpo.common.settings.run_config import RunConfig
from fedgrpo.common.trackers import libraries, names
from fedgrpo.simulations.builtin import world
from fedgrpo.simulations.engine.simulated_clients import BUILTIN_POLICY
from organisations import organisation_file

pytestmark = pytest.mark.e2e

CONFIG = RunConfig().with_values(
    {
        "federation.rounds": 3,
        "train.steps-per-round": 2,
        "adapter.rank": 4,
        "adapter.alpha": 8,
        "grpo.max-completion-length": 20,
        "grpo.learning-rate": 0.004,
        "evaluation.batch-size": 30,
    }
)


@pytest.fixture(scope="module")
def learner(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clinic")
    rows = [p.problem() for p in world.problems("train", 80, 0)]
    lines = [json.dumps({"question": p.question, "answer": p.answer}) for p in rows]
    (folder / "train.jsonl").write_text("\n".join(lines))
    limits = {"policy__max_bytes_per_round": 10**7, "policy__max_seconds_per_round": 60.0, "policy__metrics": ["*"]}
    own = organisation_file(folder, model__sha256=file_hash(BUILTIN_POLICY), policy__class_columns=[], **limits)
    return JobHandler(own)


def ask(learner, kind, config, task=None):
    frame = task or Frame({})
    body = Frame({"kind": kind, "config": config.flat(), **frame.fields}, frame.vector)
    return Frame.unpack(learner.do(Job("key", Frame.unpack(body.pack()))).pack())


def train(learner, config, number=1):
    schema = frames.message_of(Capabilities, ask(learner, "capabilities", config)).schema
    federation = f"f-{config.sha256[:8]}"  # the ledger knows a federation by its settings
    place = {"federation": federation, "round": number, "attempt": 1, "position": 0}
    task = TrainTask(adapter=Adapter.initial(schema), **place)
    return frames.update_of(ask(learner, "train", config, frames.frame_of(task)))


def test_a_run_after_another_run_starts_from_the_same_base_model(learner):
    first = train(learner, CONFIG)
    other = train(learner, CONFIG.with_values({"federation.seed": 1, "adapter.rank": 2}))
    again = train(learner, CONFIG)
    assert np.linalg.norm(first.delta) > 0
    assert other.delta.size != first.delta.size
    assert (again.delta == first.delta).all()


def test_a_run_of_another_dtype_loads_the_model_anew_and_back(learner):
    first = train(learner, CONFIG)
    half = train(learner, CONFIG.with_values({"model.dtype": "bfloat16"}))
    again = train(learner, CONFIG)
    assert not (half.delta == first.delta).all()
    assert (again.delta == first.delta).all()


def test_a_refused_run_leaves_the_one_that_is_set_up_alone(learner):
    train(learner, CONFIG)
    held = learner.base("float32").model
    with pytest.raises(PolicyError):
        ask(learner, "capabilities", CONFIG.with_values({"adapter.rank": 9}))
    train(learner, CONFIG)
    assert learner.base("float32").model is held


def test_a_run_that_came_with_another_app_bundle_is_refused(learner):
    with pytest.raises(PolicyError, match="fedgrpo server bundle"):
        ask(learner, "capabilities", CONFIG, Frame({"app": "0" * 64}))
    ask(learner, "capabilities", CONFIG, Frame({"app": installed_sha256()}))


def test_what_the_machine_can_do_is_measured(learner):
    can = learner.learner(CONFIG) and learner.unguarded_capabilities()
    assert can.device == "cpu"
    assert can.memory_bytes > 10**9
    assert can.tokens_per_second > 10


def test_held_out_answers_are_counted(learner):
    schema = frames.message_of(Capabilities, ask(learner, "capabilities", CONFIG)).schema
    task = EvaluateTask(federation="f", round=0, adapter=Adapter.initial(schema), temperature=0.0)
    found = frames.message_of(Evaluation, ask(learner, "evaluate", CONFIG, frames.frame_of(task)))
    assert found.total.problems == len(learner.held_out)
    assert found.total.gained == found.total.lost == 0  # the adapter is still the base model


def test_a_round_by_time_takes_the_steps_that_fit_and_says_how_many(learner):
    config = CONFIG.with_values({"train.steps-per-round": 4, "train.seconds-per-round": 0.001})
    short = train(learner, config)
    assert (short.num_steps, short.num_examples) == (1, 4)
    assert short.metrics["groups/effective"] <= 4
    long = train(learner, config.with_values({"train.seconds-per-round": 60.0}))
    assert (long.num_steps, long.num_examples) == (4, 16)
    unlimited = train(learner, config.with_values({"train.seconds-per-round": 0.0}))
    assert (unlimited.delta == long.delta).all()


def test_each_step_goes_to_the_organisations_own_tracker_and_changes_nothing(learner, monkeypatch):
    given = []
    opened = libraries.Opened("id", lambda step, figures: given.append((step, figures)), lambda: None)
    monkeypatch.setitem(libraries.OPENERS, "tensorboard", lambda place, known: opened)
    monkeypatch.setattr(names, "find_spec", lambda name: name)
    plain = train(learner, CONFIG)
    own = replace(
        learner.organisation,
        settings=replace(learner.organisation.settings, tracking=Tracking(use="tensorboard")),
    )
    monkeypatch.setattr(learner, "tracking", OrganisationTracking(own))
    train(learner, CONFIG.with_values({"federation.seed": 3}))  # sets the run up anew, with the tracker
    tracked = train(learner, CONFIG)
    learner.tracking.close()
    assert (tracked.delta == plain.delta).all()
    assert [step for step, _ in given] == [1, 2, 1, 2]  # of two federations
    wanted = {"train/reward", "train/loss", "train/entropy", "train/grad_norm", "train/completions/mean_length"}
    assert wanted <= set(given[0][1])
    rewards = [figures["train/reward"] for _, figures in given[2:]]
    assert tracked.metrics["reward/mean"] == pytest.approx(sum(rewards) / 2)


def test_a_model_that_is_not_the_pinned_one_is_not_used(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"question": "1+1?", "answer": "2"}\n' * 3)
    own = organisation_file(tmp_path, model__sha256="0" * 64, data__held_out_share=0.0)
    with pytest.raises(ConfigError, match="pins model.sha256 = 0000"):
        JobHandler(own).base("auto")


def test_settings_that_an_organisation_has_itself_are_ignored_and_named_once(learner, caplog):
    sent = {"simulation.tools": "/elsewhere/tools.py", "output.dir": "/etc", "backend.loader": "unsloth"}
    config = CONFIG.with_values({**sent, "federation.seed": 77})
    with caplog.at_level("INFO", "fedgrpo.learner"):
        first, second = (ask(learner, "capabilities", config) for _ in range(2))
    assert first.fields == second.fields
    lines = [line for line in caplog.messages if line.startswith("ignored")]
    assert len(lines) == 1
    assert lines[0].endswith(": backend.loader, simulation.tools, output.dir")
    applied = learner._model.config
    assert (applied.simulation.tools, applied.backend.loader) == ("", "transformers")


@pytest.mark.parametrize(
    ("key", "value"), [("grpo.temperature", 1e-300), ("adapter.rank", True), ("grpo.loss-type", "x")]
)
def test_settings_that_cannot_be_are_a_fault_of_the_task_and_not_of_the_organisation(learner, key, value):
    body = Frame({"kind": "capabilities", "config": {**CONFIG.flat(), key: value}})
    with pytest.raises(ProtocolError) as refused:
        learner.do(Job("key", Frame.unpack(body.pack())))
    assert code_of(refused.value) == "task"
    assert key in str(refused.value)


def test_a_run_that_comes_back_may_send_its_larger_adapter_at_once(learner):
    large = CONFIG.with_values({"adapter.rank": 8})
    train(learner, large)
    size = learner.task_bytes
    train(learner, CONFIG)
    assert learner.task_bytes == size == 77_824  # A and B of rank 8
