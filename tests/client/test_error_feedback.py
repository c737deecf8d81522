"""Error feedback at the client: nothing that rounding takes is lost, across rounds, voids and restarts."""

from dataclasses import replace

import numpy as np
import pytest
from federation import metrics
from fedgrpo.client.learner.training.error_feedback import CompressingLearner, Residuals
from fedgrpo.common.adapter.adapter import Adapter, l2_norm
from fedgrpo.common.adapter.compression import CODECS, UP, rounded
from fedgrpo.common.adapter.schema import AdapterSchema, Module, split
from fedgrpo.common.errors import DivergedError
from fedgrpo.common.messages.messages import Capabilities, TrainTask, Update
from fedgrpo.common.settings.run_config import RunConfig

SCHEMA = AdapterSchema(modules=(Module("m", 40, 30),), rank=4, alpha=8, holds=("B",), seed=0)
BOTH = replace(SCHEMA, holds=("A", "B"))
SENT = [name for name, codec in CODECS.built_in.items() if UP in codec.ways]
ODD = np.float32([1.0, 0.123456])
LOSSY = [name for name in SENT if (rounded(ODD, name) != ODD).any()]


class Fake:
    """A learner whose delta of a round is known."""

    def __init__(self, schema=SCHEMA, scale=1.0):
        self.schema, self.scale, self.asked = schema, scale, []

    def capabilities(self):
        names = tuple(metrics())
        return Capabilities(
            organisation="clinic", schema=self.schema, base_model_sha256="", reward_names=(), metrics=names,
            examples=9, prompts_too_long=0,
        )  # fmt: skip

    def delta(self, number):
        found = np.random.default_rng(number).normal(size=self.schema.size).astype(np.float32) * np.float32(self.scale)
        if self.schema is BOTH:  # rolora: B in odd rounds, A in even ones
            for (_, factor), part in split(self.schema, found).items():
                part *= factor == ("B" if number % 2 else "A")
        return found

    def train(self, task):
        self.asked.append(task)
        return Update(delta=self.delta(task.round), num_steps=4, num_examples=16, metrics=metrics())


def learner(folder, fake=None, limit=float("inf"), **values):
    config = RunConfig().with_values({k.replace("__", ".").replace("_", "-"): v for k, v in values.items()})
    return CompressingLearner(fake or Fake(), config, Residuals(folder), limit)


def task(number, counted=(0, 0), attempt=1, schema=SCHEMA):
    return TrainTask(
        federation="fed-1", round=number, attempt=attempt, adapter=Adapter.initial(schema), position=0,
        counted_round=counted[0], counted_attempt=counted[1],
    )  # fmt: skip


@pytest.mark.parametrize("codec", LOSSY)
def test_over_the_rounds_what_was_sent_is_what_was_learned(tmp_path, codec):
    fake, sent, counted = Fake(), np.zeros(SCHEMA.size), (0, 0)
    for number in range(1, 13):
        # a process of its own each round: what is kept is on the disk
        sent += learner(tmp_path, fake, compression__up=codec).train(task(number, counted)).delta
        counted = (number, 1)
    learned = np.sum([fake.delta(n).astype(np.float64) for n in range(1, 13)], axis=0)
    rest = np.fromfile(tmp_path / "fed-1" / "12-1.rest", dtype="<f4")
    np.testing.assert_allclose(sent + rest, learned, atol=1e-4)
    assert np.linalg.norm(rest) > 0


def test_without_feedback_random_rounding_differs_by_round_and_not_by_repetition(tmp_path):
    plain = {"compression__up": "int4", "compression__error_feedback": False}
    one = learner(tmp_path, **plain).train(task(1)).delta
    assert (learner(tmp_path, **plain).train(task(1, attempt=2)).delta == one).all()
    assert not list(tmp_path.iterdir())
    assert l2_norm(one - Fake().delta(1)) > 0


def test_a_void_attempt_is_forgotten_and_a_repeated_one_is_the_same(tmp_path):
    own = learner(tmp_path, compression__up="int4")
    own.train(task(1))
    second = own.train(task(2, (1, 1))).delta  # void
    again = own.train(task(2, (1, 1), attempt=2)).delta
    assert (second == again).all()
    third = own.train(task(3, (2, 2))).delta
    assert (own.train(task(3, (2, 2))).delta == third).all()
    assert not (own.train(task(3, (1, 1))).delta == third).all()  # as if round 2 had not counted


def test_a_lost_or_damaged_rest_costs_that_rest_only(tmp_path, caplog):
    own = learner(tmp_path, compression__up="int4")
    fresh = own.train(task(2)).delta
    (tmp_path / "fed-1" / "1-1.rest").write_bytes(b"damaged!")
    assert (own.train(task(2, (1, 1))).delta == fresh).all()
    assert "lost" in caplog.text


def test_rests_of_long_ago_are_cleared_away(tmp_path):
    own = learner(tmp_path, compression__up="int8")
    for number in range(1, 9):
        own.train(task(number, (number - 1, 1) if number > 1 else (0, 0)))
    assert sorted(p.name for p in (tmp_path / "fed-1").iterdir()) == [f"{n}-1.rest" for n in range(5, 9)]


def test_the_rest_of_a_factor_waits_for_its_turn(tmp_path):
    fake = Fake(BOTH)
    own = learner(tmp_path, fake, compression__up="int4", aggregation__method="rolora")
    sent = np.zeros(BOTH.size)
    for number in range(1, 5):
        delta = own.train(task(number, (number - 1, 1) if number > 1 else (0, 0), schema=BOTH)).delta
        trained = "B" if number % 2 else "A"
        assert all(part.any() == (factor == trained) for (_, factor), part in split(BOTH, delta).items())
        sent += delta
    rest = np.fromfile(tmp_path / "fed-1" / "4-1.rest", dtype="<f4")
    np.testing.assert_allclose(sent + rest, sum(fake.delta(n).astype(np.float64) for n in range(1, 5)), atol=1e-4)


@pytest.mark.parametrize("codec", SENT)
def test_what_is_sent_is_never_longer_than_allowed(tmp_path, codec):
    own = learner(tmp_path, Fake(scale=50.0), limit=2.0, compression__up=codec)
    for number in range(1, 4):
        sent = own.train(task(number, (number - 1, 1) if number > 1 else (0, 0))).delta
        assert 1.0 < l2_norm(sent) <= 2.0 * (1 + 1e-6)


@pytest.mark.parametrize("codec", SENT)
def test_a_delta_that_is_not_finite_ends_the_round_and_not_the_learner(tmp_path, codec):
    own = learner(tmp_path, Fake(scale=np.nan), limit=2.0, compression__up=codec)
    with pytest.raises(DivergedError):
        own.train(task(1))


def test_a_server_that_never_counts_anything_fills_no_disk(tmp_path):
    own = learner(tmp_path, compression__up="int8")
    for number in range(1, 30):
        own.train(task(number))
    assert len(list((tmp_path / "fed-1").iterdir())) == 12


@pytest.mark.parametrize("method", ["svd", "flora"])
@pytest.mark.parametrize("codec", ["int8", "top-k"])
def test_where_aggregation_changes_the_factors_nothing_is_added_to_factors_it_was_not_taken_from(
    tmp_path, method, codec
):
    schema = replace(SCHEMA, holds=("A", "B", "W") if method == "flora" else ("A", "B"))
    own = learner(tmp_path, Fake(schema), compression__up=codec, aggregation__method=method)
    own.train(task(1, schema=schema))
    assert not list(tmp_path.iterdir())
    after_one = own.train(task(2, (1, 1), schema=schema)).delta
    assert (after_one == own.train(task(2, schema=schema)).delta).all()


def test_the_residual_of_the_counted_round_outlives_any_number_of_attempts(tmp_path):
    own = learner(tmp_path, compression__up="int4")
    own.train(task(1))
    first = own.train(task(2, (1, 1))).delta
    for attempt in range(2, 20):
        again = own.train(task(2, (1, 1), attempt=attempt)).delta
        assert (again == first).all()
    assert (tmp_path / "fed-1" / "1-1.rest").exists()
    assert len(list((tmp_path / "fed-1").iterdir())) < 16
