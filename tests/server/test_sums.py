"""Sums of updates: masked or not the same adapter, whoever is gone at whatever step, and across server crashes."""

import random

import numpy as np
import pytest
from federation import settings
from fedgrpo.common.adapter.peft_files import read_peft
from fedgrpo.common.analysis.organisation_privacy import noise_ratio
from fedgrpo.common.errors import ConfigError, RunError
from fedgrpo.common.messages import wire
from fedgrpo.server.run.journal import Journal, Void
from fedgrpo.server.run.metrics import EvaluationMetrics, RoundMetrics, read_metrics
from fedgrpo.simulations.engine.grid import LocalGrid
from sums import NAMES, World

pytestmark = pytest.mark.e2e

STEPS = ("train", "share", "mask", "agree", "open")


def config_of(folder, mode, **values):
    base = {
        "privacy.mode": mode,
        "simulation.clients": 5,
        "federation.start-clients": 5,
        "federation.min-clients": 3,
        "federation.ask-again-s": 0.0,
        "evaluation.every": 0,
        "evaluation.classes": "",
        "output.run": mode,
    }
    return settings(folder).with_values({**base, **values})


def adapters(run):
    return list(Journal.read(run.files.journal).adapters.values())


def rounds_of(run):
    return [line for line in read_metrics(run.files.metrics) if isinstance(line, RoundMetrics)]


ALSO = [("rolora", "fp32"), ("xs", "fp32"), ("tiny", "int8"), ("ffa", "fp32")]


@pytest.mark.parametrize(
    ("method", "up"),
    [("naive", "fp32"), ("ffa", "int8"), *(pytest.param(*each, marks=pytest.mark.e2e) for each in ALSO)],
)
def test_a_masked_sum_makes_the_adapter_of_the_plain_sum_bit_for_bit(tmp_path, method, up):
    values = {"aggregation.method": method, "compression.up": up, "grpo.learning-rate": 1.0}
    masked = World(config_of(tmp_path, "secagg", **values)).play()
    plain = World(config_of(tmp_path, "sum", **values)).play()
    assert adapters(masked) == adapters(plain)
    assert len(set(adapters(masked))) == 3
    error = None if method == "naive" else 0.0  # the mean of A and the mean of B, of which nobody sees the products
    assert [line.aggregation_error for line in rounds_of(masked)] == [error] * 3


@pytest.mark.e2e
def test_two_of_five_gone_at_random_steps_of_each_round_lose_nothing_of_the_others(tmp_path):
    """The plain sum of the same survivors is the reference. Four of five open a sum, so such an attempt is void, or its
    opening asked for again; in the next one is gone for good, and the other is back.
    """
    choice, rounds = random.Random(5), range(1, 9)
    gone = {number: {name: choice.randrange(4) for name in choice.sample(NAMES, 2)} for number in rounds}

    def fails(name, number, attempt, step):
        away = gone.get(number, {})
        first = away[name] if attempt == 1 and name in away else 0 if name == min(away, default="") else len(STEPS)
        return step in STEPS and STEPS.index(step) >= first

    masked = World(config_of(tmp_path, "secagg", **{"federation.rounds": len(rounds)}), fails).play()
    members = {line.round: line.members for line in rounds_of(masked)}
    assert {line.attempt for line in rounds_of(masked)} == {2}
    assert all(set(members[number]) == set(NAMES) - {min(away)} for number, away in gone.items())

    def absent(name, number, attempt, step):
        return step == "train" and name not in members[number]

    plain = World(config_of(tmp_path, "sum", **{"federation.rounds": len(rounds)}), absent).play()
    assert adapters(masked) == adapters(plain)


@pytest.mark.e2e
@pytest.mark.parametrize("step", ["mask", "agree", "open"])
def test_one_of_five_gone_in_a_late_step_does_not_void_the_round(tmp_path, step):
    run = World(config_of(tmp_path, "secagg"), lambda name, *place: name == NAMES[1] and place[-1] == step).play()
    assert not Journal.read(run.files.journal).of(Void)
    (last, *_) = reversed(rounds_of(run))
    assert (NAMES[1] in last.members) == (step != "mask")  # its vector is in the sum if it came


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """The adapters of an undisturbed run."""
    return adapters(World(config_of(tmp_path_factory.mktemp("calm"), "secagg")).play())


@pytest.mark.e2e
@pytest.mark.parametrize("step", STEPS[:-1])
def test_below_the_threshold_the_attempt_is_void_and_the_next_one_commits(tmp_path, calm, step):
    def fails(name, number, attempt, at):
        return (number, attempt) == (2, 1) and name in NAMES[:3] and at == step

    run = World(config_of(tmp_path, "secagg"), fails).play()
    (void,) = Journal.read(run.files.journal).of(Void)
    assert (void.round, void.attempt) == (2, 1)
    assert "members are left" in void.reason
    assert adapters(run) == calm


def test_a_sum_that_some_have_opened_is_not_given_up_but_asked_for_again(tmp_path, calm):
    """Who has given its shares away never signs another sum of the round: a new attempt could not be opened."""
    away = [3]

    def fails(name, number, attempt, step):
        if (number, step) != (2, "open") or name not in NAMES[:3] or not away[0]:
            return False
        away[0] -= 1
        return True

    run = World(config_of(tmp_path, "secagg"), fails).play()
    assert not away[0]
    assert not Journal.read(run.files.journal).of(Void)
    assert adapters(run) == calm


@pytest.mark.e2e
def test_a_member_that_agrees_late_helps_to_open(tmp_path, calm):
    """Four of five must open: one was gone when the others agreed, and one of those never opens."""
    trials = []

    def fails(name, number, attempt, step):
        if number != 2:
            return False
        if (name, step) == (NAMES[0], "agree"):
            trials.append(step)
            return len(trials) == 1
        return (name, step) == (NAMES[1], "open")

    run = World(config_of(tmp_path, "secagg"), fails).play()
    assert len(trials) == 2
    assert not Journal.read(run.files.journal).of(Void)
    assert adapters(run) == calm


@pytest.mark.e2e
def test_a_sum_that_cannot_be_opened_stops_the_run_which_goes_on_when_they_are_back(tmp_path, calm):
    config = config_of(tmp_path, "secagg", **{"federation.max-void-rounds": 2})
    world = World(config, lambda name, number, attempt, step: (number, step) == (2, "open") and name in NAMES[:3])
    with pytest.raises(RunError, match="Round 2 cannot be opened: only 2 members are left, 4 are needed"):
        world.play()
    world.fails = lambda *place: False
    run = world.play()
    assert adapters(run) == calm
    assert all(len(vectors) == 1 for vectors in world.masked.values())


def test_a_round_that_can_never_be_opened_ends_the_run_with_the_reason(tmp_path):
    config = config_of(tmp_path, "secagg", **{"federation.max-void-rounds": 2})
    with pytest.raises(RunError, match=r"only 2 members are left, 4 are needed: client-0 client-raised"):
        World(config, lambda name, number, attempt, step: number == 2 and name in NAMES[:3] and step == "mask").play()


class DyingGrid(LocalGrid):
    """A grid whose server dies just before, or just after, it sends the messages of a step."""

    dies_at, after, kind = "", False, "train"

    def push_messages(self, messages):
        batch = list(messages)
        step = wire.header_of(batch[0].content).get("step", batch[0].metadata.message_type) if batch else ""
        if step != self.dies_at:
            return super().push_messages(batch)
        if self.after:
            ids = super().push_messages(batch)
            while not all(self._waiting[i].done() for i in ids):
                pass
        raise KeyboardInterrupt


@pytest.mark.e2e
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_a_server_killed_in_any_step_goes_on_and_nothing_is_masked_twice(tmp_path, calm, step, after):
    world = World(config_of(tmp_path, "secagg"))
    with pytest.raises(KeyboardInterrupt):
        world.play(DyingGrid, dies_at=step, after=after)
    run = world.play()
    assert adapters(run) == calm
    assert all(len(vectors) == 1 for vectors in world.masked.values())
    assert not Journal.read(run.files.journal).of(Void)


def test_the_server_sees_sums_of_counts_and_means_of_metrics_only(tmp_path):
    run = World(config_of(tmp_path, "secagg")).play()
    lines = read_metrics(run.files.metrics)
    evaluations = [line for line in lines if isinstance(line, EvaluationMetrics)]
    assert {(line.total.problems, line.total.correct) for line in evaluations} == {(50, 3 + 4 + 5 + 6 + 7)}
    assert all(line.clients == NAMES and line.classes == {} for line in evaluations)
    for line in rounds_of(run):
        assert list(line.clients) == ["(sum)"]
        assert line.members == NAMES
        assert "reward/correctness/mean" not in line.clients["(sum)"].reported
        assert abs(line.clients["(sum)"].reported["reward/mean"]) < 3
    assert not run.files.inbox.exists()
    assert not run.files.sums.exists()


def test_an_update_that_is_longer_than_the_clip_counts_with_that_length(tmp_path):
    config = config_of(tmp_path, "secagg", **{"privacy.clip-norm": 0.5, "federation.rounds": 1})
    (line,) = rounds_of(World(config, length=100.0).play())
    assert line.clients["(sum)"].clipped
    assert 0 < line.update_norm <= 1.0  # five updates of length .5 at most, over weights of 1 at most


def test_noise_hides_an_organisation_and_is_as_long_on_the_mean_as_is_said_before_the_run(tmp_path, caplog):
    values = {"privacy.noise-multiplier": 3.0, "aggregation.weights": "uniform", "federation.rounds": 40}
    config = config_of(tmp_path, "sum", **values)
    quiet = World(config.with_values({"privacy.noise-multiplier": 0.0, "output.run": "quiet"}), length=1e-6).play()
    caplog.set_level("WARNING", logger="fedgrpo.federation")
    run = World(config, length=1e-6).play()
    assert "noise on the mean update is" in caplog.text
    noise = [line.update_norm / config.privacy.clip_norm for line in rounds_of(run)]
    size = read_peft(run.files.adapter(1)).schema.size_of(("B",))
    expected = noise_ratio(3.0, size, 5, 4)
    assert np.mean(np.square(noise)) == pytest.approx(expected**2, rel=0.25)  # 40 rounds of `size` numbers: 4 sd
    assert max(line.update_norm for line in rounds_of(quiet)) < 1e-4
    assert rounds_of(run)[0].clients["(sum)"].reported == {}
    assert not rounds_of(run)[0].clients["(sum)"].clipped


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"aggregation.method": "svd"}, "aggregation.method is svd, which needs each update"),
        ({"aggregation.method": "fedex"}, "aggregation.method is fedex"),
        ({"aggregation.rule": "median", "aggregation.hostile": 1}, "robust rules"),
        ({"aggregation.weights": "relative-gain"}, "compares each client with its own past"),
        ({"gate.enabled": True}, "compares the answers of single clients"),
        ({"intake.clip-to-median": 2.0}, "each update's norm"),
        ({"train.seconds-per-round": 60.0}, "steps would differ by client"),
        ({"train.min-signal": 0.25}, "steps would differ by client and tell of its rewards"),
        ({"compression.up": "top-k"}, "only numbers of one grid can be added up"),
        ({"compression.up": "int4"}, "only numbers of one grid can be added up"),
        ({"simulation.ranks": "2;1"}, "different lengths"),
        ({"federation.clients-per-round": 2}, "tells one member another's update"),
        ({"privacy.noise-multiplier": 1.0}, "weights are added up without noise"),
        (
            {"privacy.noise-multiplier": 1.0, "aggregation.weights": "uniform", "compression.up": "int8"},
            "no room for noise",
        ),
        ({"privacy.noise-multiplier": 1.0, "privacy.mode": "none"}, "each update would be seen with its own part"),
    ],
)
def test_what_contradicts_a_sum_is_refused_with_the_reason(tmp_path, values, reason):
    with pytest.raises(ConfigError, match=reason):
        config_of(tmp_path, "secagg", **values)
