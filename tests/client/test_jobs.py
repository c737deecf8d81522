"""The learner's jobs, over a real Unix socket: asked twice, killed, cancelled, kept."""

import os
import random
import signal
import stat
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from federation import schema, settings
from fedgrpo.client.learner.service import daemon, jobs
from fedgrpo.client.learner.service.daemon import serve_jobs
from fedgrpo.client.learner.service.jobs import JobQueue
from fedgrpo.client.relay import remote_learner
from fedgrpo.client.relay.remote_learner import RemoteLearner
from fedgrpo.common.adapter.adapter import Adapter
from fedgrpo.common.errors import ConfigError, LearnerGoneError, PeerFailedError, RewardError
from fedgrpo.common.messages.frames import Frame, frame_of, message_of
from fedgrpo.common.messages.messages import Capabilities, TrainTask, Update
from organisations import organisation_file

CANARY = "PATIENT-0815"


def delta_of(frame):
    """What a fake learner learns: a function of the task alone, as the real one's delta is."""
    return frame.vector * 2 + frame.get("round", int)


class FakeLearner:
    """Does jobs in a few steps, and notes each in a file, which outlives the process."""

    def __init__(self, own, folder, step_s=0.0):
        self.organisation, self.ready, self.identity, self.task_bytes = own, True, "one", 0
        self._folder, self._step_s = folder, step_s

    def do(self, job):
        kind = job.frame.get("kind", str)
        if kind == "warm-up":
            return Frame({})
        if kind == "fail":
            raise RewardError(f"the reward raised {CANARY}")
        if kind == "crash":
            raise KeyError(CANARY)
        for step in range(4):
            time.sleep(self._step_s)
            job.progress(step + 1, 4)
        with (self._folder / "trained").open("a") as file:
            file.write(f"{job.frame.get('round', int)}\n")
        delta = delta_of(job.frame)
        return frame_of(Update(delta=delta, num_steps=1, num_examples=4, metrics={"reward/mean": 1.0}))

    def kept(self):
        """Do nothing: this learner has no ledger."""

    def trained(self):
        path = self._folder / "trained"
        return path.read_text().split() if path.exists() else []


@contextmanager
def serving(own, learner):
    """A learner's process, as far as the socket goes, in a thread."""
    stop = threading.Event()
    thread = threading.Thread(target=serve_jobs, args=(own, learner), kwargs={"stop": stop})
    thread.start()
    deadline = time.monotonic() + 10
    while not own.socket.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=20)
        assert not thread.is_alive()


@pytest.fixture
def place(tmp_path):
    own = organisation_file(
        tmp_path, learner__socket=f"/tmp/fedgrpo-test-{os.getpid()}-{time.monotonic_ns() % 10**9}.sock"
    )
    config = settings(tmp_path)
    return SimpleNamespace(organisation=own, config=config, learner=FakeLearner(own, tmp_path), folder=tmp_path)


def task(config, number=1, attempt=1):
    adapter = Adapter(schema(config), np.full(schema(config).size, number, np.float32))
    return TrainTask(federation="fed-1", round=number, attempt=attempt, adapter=adapter, position=0)


def relay(place, seconds=30.0):
    return RemoteLearner(place.organisation.socket, place.config, time.time() + seconds)


def test_only_the_owner_may_use_the_socket(place):
    with serving(place.organisation, place.learner):
        mode = place.organisation.socket.stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
        assert stat.S_IMODE(place.organisation.folder.stat().st_mode) == 0o700
    assert not place.organisation.socket.exists()


def test_a_learner_that_is_told_to_end_as_its_model_is_loaded_ends():
    loaded, told = SimpleNamespace(ended=True, error=None), SimpleNamespace(should_exit=True)
    daemon._end_if_it_fails(None, loaded, told)
    assert told.should_exit


def test_a_repeated_request_costs_nothing_also_after_a_restart(place):
    with serving(place.organisation, place.learner):
        first = relay(place).train(task(place.config))
        again = relay(place).train(task(place.config))
    with serving(place.organisation, place.learner):
        restarted = relay(place).train(task(place.config))
    assert place.learner.trained() == ["1"]
    place.learner.identity = "another policy, or other data"
    with serving(place.organisation, place.learner):
        relay(place).train(task(place.config))
    assert place.learner.trained() == ["1", "1"]
    for update in (first, again, restarted):
        assert (update.delta == 3.0).all()
        assert update.metrics == {"reward/mean": 1.0}


def test_another_round_attempt_or_configuration_is_another_job(place):
    with serving(place.organisation, place.learner):
        relay(place).train(task(place.config))
        relay(place).train(task(place.config, attempt=2))
        relay(place).train(task(place.config, number=2))
        other = SimpleNamespace(
            organisation=place.organisation, config=place.config.with_values({"grpo.temperature": 0.5})
        )
        relay(other).train(task(place.config))
    assert place.learner.trained() == ["1", "1", "2", "1"]


@pytest.mark.parametrize(("kind", "code"), [("fail", "reward"), ("crash", "internal"), ("nonsense", "task")])
def test_a_failure_comes_over_the_socket_as_a_code(place, kind, code):
    with serving(place.organisation, place.learner), pytest.raises(PeerFailedError) as caught:
        relay(place)._done(kind, Frame({}))
    assert caught.value.code == code
    assert CANARY not in str(caught.value)


def test_a_request_that_is_too_long_or_no_frame_is_refused(place, caplog):
    with serving(place.organisation, place.learner):
        http = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(place.organisation.socket)), base_url="http://l", timeout=20
        )
        assert http.post("/v1/jobs", content=b"x" * 9_000_000).status_code == 413
        assert "more than 8001000 bytes" in caplog.text
        assert "Raise policy.max-bytes-per-round" in caplog.text
        assert http.post("/v1/jobs", content=b"no frame").status_code == 400
        assert http.get("/v1/jobs/unknown").status_code == 404
        assert http.get("/v1/jobs/unknown", params={"wait": "soon"}).status_code == 400
        status = http.get("/v1/status").json()
        assert (status["organisation"], status["ready"], status["job"]) == ("clinic", True, {})


def test_a_file_that_is_no_socket_is_not_removed(place):
    place.organisation.socket.write_text("the only copy of the data")
    try:
        with pytest.raises(ConfigError, match="something else"):
            serve_jobs(place.organisation, place.learner)
        assert place.organisation.socket.read_text() == "the only copy of the data"
    finally:
        place.organisation.socket.unlink()


def test_a_learner_that_answers_is_not_pushed_aside(place):
    with serving(place.organisation, place.learner):
        with pytest.raises(ConfigError, match="answers on"):
            serve_jobs(place.organisation, place.learner)
        assert relay(place).train(task(place.config)).num_steps == 1


@pytest.mark.e2e
def test_a_hundred_that_wait_do_not_make_the_learner_deaf(place):
    place.learner._step_s = 0.5
    with serving(place.organisation, place.learner):
        transport = httpx.HTTPTransport(uds=str(place.organisation.socket), limits=httpx.Limits(max_connections=None))
        http = httpx.Client(transport=transport, base_url="http://l", timeout=20)
        body = Frame({"kind": "train", "config": {}, "round": 7}, np.zeros(2, np.float32)).pack()
        key = http.post("/v1/jobs", content=body).json()["job"]
        wait = lambda: http.get(f"/v1/jobs/{key}", params={"wait": 20})  # noqa: E731
        waiting = [threading.Thread(target=wait) for _ in range(100)]
        for thread in waiting:
            thread.start()
        time.sleep(0.3)
        start = time.monotonic()
        assert http.get("/v1/status").json()["job"]["kind"] == "train"
        assert time.monotonic() - start < 1.0
        for thread in waiting:
            thread.join()


@pytest.mark.e2e
def test_a_learner_with_too_much_to_do_is_asked_again(place, monkeypatch):
    monkeypatch.setattr(jobs, "MAX_WAITING", 2)
    place.learner._step_s = 0.05
    with serving(place.organisation, place.learner):
        found = []
        ask = lambda n: found.append(relay(place).train(task(place.config, n)))  # noqa: E731
        threads = [threading.Thread(target=ask, args=(n,)) for n in range(1, 7)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 6


def test_a_job_that_was_cancelled_and_is_wanted_again_is_done(place):
    place.learner._step_s = 0.2
    with serving(place.organisation, place.learner):
        http = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(place.organisation.socket)), base_url="http://l", timeout=20
        )
        body = Frame({"kind": "train", "config": {}, "round": 7}, np.zeros(2, np.float32)).pack()
        key = http.post("/v1/jobs", content=body).json()["job"]
        time.sleep(0.3)
        http.delete(f"/v1/jobs/{key}")
        assert http.post("/v1/jobs", content=body).json()["job"] == key
        assert http.get(f"/v1/jobs/{key}", params={"wait": 20}).status_code == 200


def test_work_ends_when_nobody_waits_for_it(place, monkeypatch):
    monkeypatch.setattr(jobs, "LEASE_S", 0.3)
    place.learner._step_s = 0.2
    with serving(place.organisation, place.learner):
        http = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(place.organisation.socket)), base_url="http://l", timeout=20
        )
        body = Frame({"kind": "train", "config": {}, "round": 7}, np.zeros(2, np.float32)).pack()
        key = http.post("/v1/jobs", content=body).json()["job"]
        time.sleep(1.5)
        assert http.get(f"/v1/jobs/{key}").status_code == 409
    assert place.learner.trained() == []


@pytest.mark.e2e
def test_a_relay_whose_deadline_passes_cancels_the_work(place, monkeypatch):
    monkeypatch.setattr(remote_learner, "WAIT_S", 0.1)
    place.learner._step_s = 0.5
    with serving(place.organisation, place.learner):
        with pytest.raises(LearnerGoneError, match="deadline"):
            relay(place, seconds=0.6).train(task(place.config))
        time.sleep(1.5)
    assert place.learner.trained() == []


def test_a_learner_that_never_comes_is_given_up(place, monkeypatch):
    monkeypatch.setattr(remote_learner, "ABSENT_S", 0.5)
    with pytest.raises(LearnerGoneError, match="fedgrpo client up"):
        relay(place).train(task(place.config))


@pytest.mark.e2e
def test_fifty_kills_of_the_learner_cost_time_and_nothing_else(place):
    """`kill -9` at random moments of eight rounds; every update comes out once, and is what it is without a kill."""
    chance, kills = random.Random(5), 0
    place.learner._step_s = 0.004
    place.organisation.folder.mkdir(exist_ok=True)

    def start():
        child = os.fork()
        if child == 0:
            try:
                serve_jobs(place.organisation, place.learner)
            finally:
                os._exit(0)
        return child

    found = {}

    def work():
        for number in range(1, 200):
            found[number] = relay(place).train(task(place.config, number)).delta
            if stop.is_set():
                return

    stop, child = threading.Event(), start()
    thread = threading.Thread(target=work)
    thread.start()
    while kills < 50:
        time.sleep(chance.uniform(0.05, 0.4))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills += 1
        child = start()
    stop.set()
    thread.join(timeout=30)
    assert not thread.is_alive()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert len(found) >= 8
    for number, delta in found.items():
        assert (delta == 3 * number).all()


def test_the_cache_is_bounded_and_a_full_disk_loses_only_the_cache(tmp_path):
    queue = JobQueue(lambda job: Frame({"round": job.frame.get("round", int)}), tmp_path / "cache")

    def done(number):
        key = queue.submit(Frame({"kind": "train", "round": number}).pack()).key
        return queue.wait(key, 10).state

    assert {done(number) for number in range(20)} == {"done"}
    assert len(list((tmp_path / "cache").glob("*.frame"))) == jobs.KEPT_RESULTS
    for path in (tmp_path / "cache").iterdir():
        path.unlink()
    (tmp_path / "cache").rmdir()
    assert done(99) == "done"


def test_capabilities_come_back_as_they_went(tmp_path):

    can = Capabilities(
        organisation="clinic",
        schema=schema(settings(tmp_path)),
        base_model_sha256="0" * 64,
        reward_names=("a", "b"),
        metrics=("reward/mean",),
        examples=9,
        prompts_too_long=1,
        device="cuda",
        memory_bytes=1 << 40,
        tokens_per_second=12.5,
    )
    assert message_of(Capabilities, Frame.unpack(frame_of(can).pack())) == can
