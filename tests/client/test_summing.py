"""What of a training and an evaluation becomes part of a sum, and which tasks a member of sums refuses."""

from dataclasses import replace

import numpy as np
import pytest
from federation import metrics, schema, settings
from fedgrpo.client.learner.masking.summing import SummingLearner
from fedgrpo.client.learner.training.error_feedback import Residuals
from fedgrpo.common.adapter.adapter import Adapter
from fedgrpo.common.adapter.schema import trained_part
from fedgrpo.common.errors import ProtocolError
from fedgrpo.common.messages.messages import Capabilities, EvaluateTask, Evaluation, Tally, TrainTask, Update
from fedgrpo.common.secagg.grid import grid_of
from fedgrpo.common.secagg.layout import BEYOND, CLIPPED, EVALUATION_NUMBERS, WEIGHT, Layout, training_numbers
from fedgrpo.common.secagg.statements import Bundle, unsigned
from masked_federation import Federation

MEMBERS, SUMMED = 3, ("reward/mean",)


class Inner:
    """A learner whose results are given."""

    def __init__(self, config, delta):
        self.config, self.delta = config, delta

    def capabilities(self):
        return Capabilities(
            organisation="org-00",
            schema=schema(self.config),
            base_model_sha256="b" * 64,
            reward_names=("correctness",),
            metrics=("reward/mean", "reward/correctness/mean"),
            examples=24,
            prompts_too_long=1,
            held_out=7,
        )

    def train(self, task):
        steps, prompts = self.config.train.steps_per_round, self.config.prompts_per_round
        return Update(delta=self.delta, num_steps=steps, num_examples=prompts, metrics=metrics(3.0, prompts))

    def evaluate(self, task):
        return Evaluation(tallies={"total": Tally(problems=7, correct=3, tokens=120)}, federation="fed-1", round=1)


@pytest.fixture
def config(tmp_path):
    return settings(tmp_path, privacy__mode="secagg", privacy__clip_norm=2.0)


@pytest.fixture
def delta(config):
    return np.random.default_rng(0).normal(size=schema(config).size).astype(np.float32)


def learner(config, delta, tmp_path, masker=None):
    return SummingLearner(
        inner=Inner(config, delta), config=config, residuals=Residuals(tmp_path / "rests"), masker=masker
    )


def training(config, **values):
    adapter = Adapter.initial(schema(config))
    given = {
        "federation": "fed-1",
        "round": 1,
        "attempt": 1,
        "position": 0,
        "members": MEMBERS,
        "summed_metrics": SUMMED,
    }
    return TrainTask(adapter=adapter, **{**given, **values})


def evaluation(config, **values):
    adapter = Adapter.initial(schema(config))
    given = {"federation": "fed-1", "round": 1, "temperature": 0.0, "members": MEMBERS}
    return EvaluateTask(adapter=adapter, **{**given, **values})


def opened(config, words, numbers, coordinates):
    return Layout(coordinates=coordinates, numbers=numbers, grid=grid_of(config, MEMBERS)).opened(words, 1)


def test_an_update_is_weighted_clipped_to_the_norm_and_counted(config, delta, tmp_path):
    part = learner(config, delta, tmp_path).part(training(config))
    factors = config.method.trains_in(1)
    trained = trained_part(schema(config), delta, factors).astype(np.float64)
    update, numbers = opened(config, part.words, training_numbers(SUMMED), trained.size)
    weighted = trained * numbers[WEIGHT]
    assert 0 < numbers[WEIGHT] <= 1
    assert np.linalg.norm(weighted) > 2.0
    assert (numbers[CLIPPED], numbers[BEYOND]) == (1.0, 0.0)
    expected = weighted * (2.0 / np.linalg.norm(weighted))
    assert np.abs(update - expected).max() < grid_of(config, MEMBERS).step
    assert numbers["reward/mean"] == 0.5


def test_counts_of_an_evaluation_are_numbers_beside_nothing(config, delta, tmp_path):
    part = learner(config, delta, tmp_path).part(evaluation(config))
    update, numbers = opened(config, part.words, EVALUATION_NUMBERS, 0)
    assert update.size == 0
    assert (numbers["problems"], numbers["correct"], numbers["tokens"]) == (7.0, 3.0, 120.0)


def test_with_masks_the_vector_stays_and_only_keys_leave(config, delta, tmp_path):
    masker = Federation(MEMBERS).maskers["org-00"]
    this = learner(config, delta, tmp_path, masker)
    part = this.part(training(config))
    assert part.words.size == 0
    context = Bundle.read(unsigned(part.bundle)[0]).context
    assert (context.kind, context.round, context.numbers) == ("train", 1, training_numbers(SUMMED))
    said = this.capabilities()
    assert (said.examples, said.prompts_too_long, said.held_out, said.reward_names) == (0, 0, 0, ())


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"members": 2}, "secagg.members"),
        ({"members": 4}, "secagg.members"),
        ({"members": 0}, "secagg.members"),
        ({"summed_metrics": ("reward/mean", "secret")}, "secagg.metrics"),
    ],
)
def test_a_task_that_does_not_fit_the_federation_is_refused(changes, code, config, delta, tmp_path):
    this = learner(config, delta, tmp_path, Federation(MEMBERS).maskers["org-00"])
    with pytest.raises(ProtocolError) as caught:
        this.part(training(config, **changes))
    assert caught.value.code == code


def test_answers_are_not_compared_where_one_member_alone_could_be_asked_to(config, delta, tmp_path):
    this = learner(config, delta, tmp_path, Federation(MEMBERS).maskers["org-00"])
    with pytest.raises(ProtocolError) as caught:
        this.part(evaluation(config, against="a" * 64))
    assert caught.value.code == "secagg.against"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_update_that_is_not_finite_is_refused(value, config, delta, tmp_path):
    delta[-1] = delta[0] = value
    with pytest.raises(ProtocolError) as caught:
        learner(config, delta, tmp_path).part(training(config))
    assert caught.value.code == "secagg.not-finite"


def test_nothing_leaves_alone(config, delta, tmp_path):
    this = learner(config, delta, tmp_path)
    for call, task in ((this.train, training(config)), (this.evaluate, evaluation(config))):
        with pytest.raises(ProtocolError, match="leaves only as part of a sum"):
            call(task)


@pytest.mark.parametrize(
    "changes",
    [{"round": 2}, {"attempt": 2}, {"federation": "fed-2"}, {"summed_metrics": ()}, {"adapter": "other"}],
)
def test_another_task_is_another_sum(changes, config, delta, tmp_path):
    names = set()
    for task in (training(config), training(config, **{k: v for k, v in changes.items() if k != "adapter"})):
        if task.round == 1 and "adapter" in changes and names:
            vector = task.adapter.vector + np.float32(1)
            task = replace(task, adapter=Adapter(task.adapter.schema, vector))
        bundle = learner(config, delta, tmp_path, Federation(MEMBERS).maskers["org-00"]).part(task).bundle
        names.add(Bundle.read(unsigned(bundle)[0]).context.sha256)
    assert len(names) == 2
