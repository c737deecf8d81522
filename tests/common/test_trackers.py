"""Trackers: they get what metrics.jsonl holds, once; what they do never ends a run; a client's is its own."""

import json
import logging
import os
import subprocess
import sys
import threading
import time
import types
from dataclasses import replace
from importlib.machinery import ModuleSpec

import fedgrpo.server.main as main_module
import pytest
from federation import play, settings
from fedgrpo.client.learner.service.job_watcher import JobWatcher
from fedgrpo.client.learner.service.jobs import Job
from fedgrpo.client.learner.service.tracking import OrganisationTracking
from fedgrpo.common.errors import ConfigError
from fedgrpo.common.messages.frames import Frame
from fedgrpo.common.settings.run_config import RunConfig
from fedgrpo.common.trackers import libraries, trackers
from fedgrpo.common.trackers.libraries import Opened, Place
from fedgrpo.common.trackers.names import LIBRARIES, check_uses, read_uses
from fedgrpo.common.trackers.trackers import Point, Trackers, last_step, without_secrets
from fedgrpo.server.main import Stopped
from fedgrpo.server.run.metrics import read_metrics
from fedgrpo.server.run.tracking import point_of
from organisations import organisation_file


class Fake:
    """A tracker's library that keeps what it is given, and fails where it is told to."""

    def __init__(self, fails_at=None):
        self.opened, self.points, self.closed, self.fails_at = [], [], 0, fails_at

    def open(self, place, known):
        self.opened.append((place, known))
        return Opened(known or f"id-{len(self.opened)}", self.log, self.close)

    def log(self, step, figures):
        if len(self.points) == self.fails_at:
            raise OSError("no route, key was s3cret")
        self.points.append((step, dict(figures)))

    def close(self):
        self.closed += 1


@pytest.fixture
def library(monkeypatch):
    """tensorboardX and wandb, faked."""

    def install(name, fake):
        module = types.ModuleType(LIBRARIES[name])
        module.__spec__ = ModuleSpec(module.__name__, None)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(libraries.OPENERS, name, fake.open)
        return fake

    return install


def place(folder, **changes):
    return replace(Place(folder=folder, project="fedgrpo", run="run-fed-1", axis="round"), **changes)


# The setting


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tensorbord", "names 'tensorbord'. Trackers are tensorboard, wandb, trackio, mlflow"),
        ("wandb,wandb=https://api.wandb.ai", "names wandb twice"),
        ("tensorboard=https://here", "writes files only"),
        ("mlflow=mlflow.clinic.example", "not of the form https"),
        ("mlflow=file:///etc", "not of the form https"),
        ("mlflow=https://me:secret@clinic.example", "tokens belong in the environment"),
        ("trackio=https://clinic.example?write_token=secret", "tokens belong in the environment"),
        ("mlflow=https://[", "not of the form https"),
    ],
)
def test_a_wrong_setting_is_refused_and_no_token_is_repeated(text, says):
    with pytest.raises(ConfigError, match=says.replace("?", r"\?")) as caught:
        RunConfig().with_values({"output.trackers": text})
    assert "secret" not in str(caught.value)


def test_an_organisations_wrong_setting_names_its_file(tmp_path):
    with pytest.raises(ConfigError, match=r"tracking\.use names 'nothing'"):
        organisation_file(tmp_path, tracking__use="nothing")
    with pytest.raises(ConfigError, match=r"tracking\.project is '\.\./x'"):
        organisation_file(tmp_path, tracking__project="../x")


def test_where_data_goes_is_said_in_words():
    inside, outside = read_uses("x", "wandb, mlflow=https://mlflow.clinic.example:5000/a")
    assert (inside.host, str(inside)) == ("", "wandb stays on this machine")
    assert str(outside).startswith("mlflow SENDS these figures to mlflow.clinic.example (https://")


def test_what_would_keep_a_tracker_from_working_is_found_before_any_work(tmp_path, library, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    monkeypatch.setattr("fedgrpo.common.trackers.names.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs tensorboardX.*pip install 'fedgrpo\[trackers\]'"):
        play(settings(tmp_path, output__trackers="tensorboard"))
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match=r"tracking\.use names tensorboard"):
        OrganisationTracking(organisation_file(tmp_path, tracking__use="tensorboard"))


def test_a_token_is_asked_of_the_environment_and_the_environment_sends_nothing_elsewhere(library):
    library("wandb", Fake())
    library("trackio", Fake())
    online = read_uses("output.trackers", "wandb=https://api.wandb.ai")
    with pytest.raises(ConfigError, match="needs WANDB_API_KEY in the environment"):
        check_uses("output.trackers", online, {})
    check_uses("output.trackers", online, {"WANDB_API_KEY": "k"})
    check_uses("output.trackers", read_uses("output.trackers", "wandb"), {})
    with pytest.raises(ConfigError, match="TRACKIO_SPACE_ID is set"):
        check_uses("output.trackers", read_uses("output.trackers", "trackio"), {"TRACKIO_SPACE_ID": "me/space"})


# A run's


def test_a_tracker_gets_every_line_of_the_metrics_once_and_in_order(tmp_path, library):
    fake = library("tensorboard", Fake())
    run = play(settings(tmp_path, output__trackers="tensorboard"))
    lines = read_metrics(run.folder / "metrics.jsonl")
    assert [(step, figures) for step, figures in fake.points] == [(p.step, p.figures) for p in map(point_of, lines)]
    assert len(fake.points) == 3 + 4 + 2  # rounds, sampled, greedy
    assert fake.closed == 1
    assert not (tmp_path / "run" / "trackers" / "wandb").exists()


def test_figures_have_the_values_of_the_metrics_under_names_with_an_area(tmp_path, library):
    fake = library("tensorboard", Fake())
    run = play(settings(tmp_path, output__trackers="tensorboard"))
    told = run.rounds[0]
    figures = dict(next(f for step, f in fake.points if step == 1 and "round/seconds" in f))
    assert figures["aggregation/error"] == told.aggregation_error
    assert figures["round/bytes-up"] == told.bytes_up
    assert figures["round/refused"] == 0
    assert figures["clients/client-2/reward/mean"] == told.clients["client-2"].reward
    assert figures["clients/client-2/update/share"] == told.clients["client-2"].share
    last = fake.points[-1][1]
    assert last["evaluation/sampled/strict"] == 0.5
    assert last["evaluation/sampled/lenient"] == 0.6
    assert last["evaluation/sampled/gain-low"] < last["evaluation/sampled/gain"] < last["evaluation/sampled/gain-high"]
    assert last["evaluation/sampled/class/steps=1/strict"] == 0.5


def test_the_settings_are_given_but_not_where_the_operators_files_lie(tmp_path, library):
    fake = library("tensorboard", Fake())
    play(settings(tmp_path, output__trackers="tensorboard"))
    (given, _), *_ = fake.opened
    assert given.settings["federation.rounds"] == 3
    assert not any(str(tmp_path) in str(value) for value in given.settings.values())


@pytest.mark.parametrize("stop_after", [1, 12, 18, 26])
def test_a_resumed_run_goes_on_in_the_trackers_run_without_a_point_twice_or_lost(
    tmp_path, library, monkeypatch, stop_after
):
    """`stop_after` counts looks at the stop flag: the run ends while joining, evaluating or training."""
    config, looks, real = settings(tmp_path, output__trackers="tensorboard"), [], main_module._Stop.check
    fake = library("tensorboard", Fake())

    def stop_at_last(self):
        looks.append(1)
        if len(looks) == stop_after:
            self.set()
        real(self)

    def slow(number, header, reply):
        time.sleep(0.03)
        return reply

    monkeypatch.setattr(main_module._Stop, "check", stop_at_last)
    with pytest.raises(Stopped):
        play(config, slow)
    before = len(fake.points)
    monkeypatch.setattr(main_module._Stop, "check", real)
    run = play(config)
    assert (before > 0) == (stop_after > 1)
    assert before < 9
    assert [known for _, known in fake.opened] == ["", "id-1"][: len(fake.opened)]
    assert len({given.run for given, _ in fake.opened}) == 1
    assert fake.points == [(p.step, p.figures) for p in map(point_of, read_metrics(run.folder / "metrics.jsonl"))]


def test_a_tracker_that_failed_gets_what_it_missed_when_the_run_is_resumed(tmp_path, library):
    config = settings(tmp_path, output__trackers="tensorboard")
    fake = library("tensorboard", Fake(fails_at=4))
    play(config)
    assert len(fake.points) == 4
    fake.fails_at = None
    run = play(config)
    assert [known for _, known in fake.opened] == ["", "id-1"]
    assert fake.points == [(p.step, p.figures) for p in map(point_of, read_metrics(run.folder / "metrics.jsonl"))]


@pytest.mark.parametrize("how", ["open", "log", "hang"])
def test_a_tracker_that_fails_is_warned_of_once_and_changes_nothing_else(tmp_path, library, monkeypatch, caplog, how):
    plain = play(settings(tmp_path / "plain")).result()
    monkeypatch.setattr(trackers, "CLOSE_S", 0.3)
    monkeypatch.setenv("WANDB_API_KEY", "s3cret")
    broken, sound, never = library("wandb", Fake(fails_at=2)), library("tensorboard", Fake()), threading.Event()
    if how == "open":
        monkeypatch.setitem(libraries.OPENERS, "wandb", lambda place, known: 1 / 0)
    if how == "hang":
        monkeypatch.setattr(broken, "log", lambda step, figures: never.wait(20))
    started = time.monotonic()
    with caplog.at_level(logging.WARNING, "fedgrpo.trackers"):
        run = play(settings(tmp_path, output__trackers="wandb,tensorboard"))
    never.set()
    assert time.monotonic() - started < 10
    assert run.result()["adapter_sha256"] == plain["adapter_sha256"]
    assert len(sound.points) == 9
    (warning,) = [record.getMessage() for record in caplog.records if record.name == "fedgrpo.trackers"]
    assert warning.startswith("wandb ")
    assert {"open": "ZeroDivisionError", "log": "no route", "hang": "not finished after"}[how] in warning
    assert "s3cret" not in warning


def test_a_tracker_that_is_too_far_behind_is_left_out(tmp_path, library, monkeypatch, caplog):
    never = threading.Event()
    monkeypatch.setattr(trackers, "MOST_WAITING", 5)
    monkeypatch.setitem(libraries.OPENERS, "wandb", lambda place, known: never.wait(20))
    slow = Trackers(read_uses("x", "wandb"), place(tmp_path))
    for step in range(50):
        slow.log(Point("steps", step, {"a/b": 1.0}))
    assert [record.getMessage() for record in caplog.records] == [
        "wandb failed and is left out from now on. Training goes on. (5 points wait for it)"
    ]
    never.set()
    slow.close()


def test_tokens_of_the_environment_stand_in_no_message():
    found = without_secrets("401 for s3cret at host", {"MLFLOW_TRACKING_TOKEN": "s3cret", "HF_TOKEN": ""})
    assert found == "401 for (MLFLOW_TRACKING_TOKEN) at host"


# A client's

CANARY = "CANARY-from-the-server"


def steps(watcher, count, start=0):
    for number in range(1, count + 1):
        watcher.step(number, {"reward": 0.1 * (start + number), "kl": 0.5})


def watching(own, config=None, **fields):
    tracking = OrganisationTracking(own)
    job = Job("key", Frame({"kind": "train", "federation": CANARY, "round": 1, "attempt": 1, **fields}))
    return tracking, JobWatcher(lambda: job, config or RunConfig(), tracking)


def test_a_clients_tracker_gets_its_own_steps_under_trls_names(tmp_path, library):
    fake = library("tensorboard", Fake())
    tracking, watcher = watching(organisation_file(tmp_path, tracking__use="tensorboard"))
    steps(watcher, 2)
    tracking.close()
    assert fake.points == [(1, {"train/reward": 0.1, "train/kl": 0.5}), (2, {"train/reward": 0.2, "train/kl": 0.5})]


def test_a_learner_that_is_started_again_counts_on_and_a_round_that_was_void_is_no_point_twice(tmp_path, library):
    own, fake = organisation_file(tmp_path, tracking__use="tensorboard"), library("tensorboard", Fake())
    for attempt in (1, 2):
        tracking, watcher = watching(own, attempt=attempt)
        steps(watcher, 3)
        tracking.close()
    assert [step for step, _ in fake.points] == [1, 2, 3, 4, 5, 6]
    assert [known for _, known in fake.opened] == ["", "id-1"]


def test_another_federation_is_another_run(tmp_path, library):
    own, fake = organisation_file(tmp_path, tracking__use="tensorboard"), library("tensorboard", Fake())
    job = [Job("key", Frame({"federation": "one"}))]
    tracking = OrganisationTracking(own)
    watcher = JobWatcher(lambda: job[0], RunConfig(), tracking)
    steps(watcher, 2)
    job[0] = Job("key", Frame({"federation": "two"}))
    steps(watcher, 1)
    tracking.close()
    deadline = time.monotonic() + 5
    while fake.closed < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len({given.run for given, _ in fake.opened}) == 2
    assert sorted(step for step, _ in fake.points) == [1, 1, 2]


def test_a_rehearsal_is_tracked_nowhere(tmp_path, library):
    fake = library("tensorboard", Fake())
    tracking = OrganisationTracking(organisation_file(tmp_path, tracking__use="tensorboard"))
    steps(JobWatcher(lambda: None, RunConfig(), tracking), 2)
    tracking.close()
    assert fake.opened == []


def test_no_setting_of_the_servers_turns_a_clients_tracker_on(tmp_path, library):
    fake = library("wandb", Fake())
    config = RunConfig().with_values({"output.trackers": f"wandb=https://{CANARY}.example"})
    tracking, watcher = watching(organisation_file(tmp_path), config)
    steps(watcher, 2)
    tracking.close()
    assert fake.opened == []
    assert not (tmp_path / "state" / "tracking").exists()


def test_nothing_the_server_says_reaches_a_clients_tracker_or_moves_it(tmp_path, library):
    fake = library("tensorboard", Fake())
    values = {
        "output.trackers": f"mlflow=https://{CANARY}.example",
        "output.dir": f"/tmp/{CANARY}",
        "output.run": CANARY,
        "model.name": CANARY,
        "simulation.data": CANARY,
        "evaluation.classes": CANARY,
    }
    own = organisation_file(tmp_path, tracking__use="tensorboard", tracking__project="ward-7", tracking__folder="kept")
    hostile = {"tracking.use": "wandb", "tracking": {"use": f"wandb=https://{CANARY}.example"}, "project": CANARY}
    tracking, watcher = watching(own, RunConfig().with_values(values), **hostile)
    steps(watcher, 2)
    tracking.close()
    ((given, _),) = fake.opened
    assert (given.project, given.url, dict(given.settings)) == ("ward-7", "", {})
    assert given.folder.parent.parent == tmp_path / "kept"
    assert CANARY.lower() not in repr((fake.opened, fake.points)).lower()
    written = [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]
    assert written
    assert not any(CANARY in str(path) or CANARY.encode() in path.read_bytes() for path in written)


def test_a_damaged_note_costs_the_tracker_and_not_the_round(tmp_path, library, caplog):
    own, fake = organisation_file(tmp_path, tracking__use="tensorboard"), library("tensorboard", Fake())
    tracking, watcher = watching(own)
    steps(watcher, 1)
    tracking.close()
    (note,) = (tmp_path / "state" / "tracking").glob("*/tensorboard.json")
    note.write_bytes(b'{"run"')
    tracking, watcher = watching(own)
    steps(watcher, 1)
    tracking.close()
    assert len(fake.points) == 1
    assert "tensorboard failed and is left out" in caplog.text
    assert last_step(note.parent, "steps") == 0


# The real libraries

POINTS = [
    Point("rounds", 1, {"round/seconds": 1.5, "clients/client-0/reward/mean": 0.25}),
    Point("sampled", 1, {"evaluation/sampled/class/operator=minus/strict": 0.5}),
    Point("rounds", 2, {"round/seconds": float("nan"), "clients/client-0/reward/mean": 0.75}),
]


def give_twice(name, folder):
    """Points to a real library, as two processes would: the second is given all again, and one more."""
    for points in (POINTS[:2], POINTS):
        real = Trackers(read_uses("x", name), place(folder, settings={"grpo.beta": 0.1, "model.name": "builtin"}))
        for point in points:
            real.log(point)
        real.close()


def test_tensorboards_own_reader_finds_each_point_once(tmp_path):
    pytest.importorskip("tensorboardX", reason="needs tensorboardX: pip install 'fedgrpo[trackers]'")
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard to read event files"
    )
    give_twice("tensorboard", tmp_path)
    found = reader.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    seen = {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
    assert seen["clients/client-0/reward/mean"] == [(1, 0.25), (2, 0.75)]
    assert [step for step, _ in seen["round/seconds"]] == [1, 2]
    assert len(seen) == 3


def test_mlflows_own_client_finds_each_point_once_in_one_run(tmp_path):
    mlflow = pytest.importorskip("mlflow", reason="needs mlflow-skinny: pip install 'fedgrpo[trackers]'")
    give_twice("mlflow", tmp_path)
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("fedgrpo")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params == {"grpo.beta": "0.1", "model.name": "builtin"}
    history = client.get_metric_history(run.info.run_id, "clients/client-0/reward/mean")
    assert [(m.step, m.value) for m in history] == [(1, 0.25), (2, 0.75)]
    assert client.get_metric_history(run.info.run_id, "evaluation/sampled/class/operator_minus/strict")[0].value == 0.5


def test_wandb_offline_keeps_the_run_in_files_and_tells_nothing_of_the_machine(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="needs wandb: pip install 'fedgrpo[trackers]'")
    monkeypatch.setenv("WANDB_MODE", "disabled")  # counts for nothing: the setting decides
    monkeypatch.setattr("socket.gethostname", lambda: "ward-7-host")
    give_twice("wandb", tmp_path)
    files = sorted((tmp_path / "wandb").rglob("*.wandb"))
    assert [file.name for file in files] == ["run-run-fed-1.wandb"] * 2  # one run's id, in two parts
    first, second = (file.read_bytes() for file in files)
    assert b"clients/client-0/reward/mean" in first
    assert b"operator=minus" in first
    assert b"0.75" in second
    assert b"0.25" not in second
    for told in (str(tmp_path), "ward-7-host", os.path.realpath(sys.executable), "pytest"):
        assert told.encode() not in first + second


def test_trackio_keeps_each_point_once_in_its_own_store(tmp_path):
    pytest.importorskip("trackio", reason="needs trackio: pip install 'fedgrpo[trackers]'")
    code = (
        "import sys, pathlib, json; sys.path.insert(0, sys.argv[2]); from test_trackers import give_twice\n"
        "give_twice('trackio', pathlib.Path(sys.argv[1]))\n"
        "import trackio; (run,) = trackio.Api().runs('fedgrpo')\n"
        "from trackio.sqlite_storage import SQLiteStorage\n"
        "print(json.dumps([run.name, SQLiteStorage.get_logs('fedgrpo', run.name)]))"
    )
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "home")}
    arguments = [sys.executable, "-c", code, str(tmp_path), os.path.dirname(__file__)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, env=environment)
    name, rows = json.loads(done.stdout.strip().splitlines()[-1] if done.stdout else done.stderr[-2000:])
    assert done.stdout.count("\n") == 1  # what the library prints goes to stderr: stdout may be someone's JSON
    assert name == "run-fed-1"
    rewards = [(row["step"], row["clients/client-0/reward/mean"]) for row in rows if "round/seconds" in row]
    assert rewards == [(1, 0.25), (2, 0.75)]
