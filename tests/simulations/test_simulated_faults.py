"""Simulated faulty clients: each lies in the way its name says, and in no other."""

import contextlib

import numpy as np
import pytest
from fedgrpo.common.errors import LearnerGoneError
from fedgrpo.common.messages.messages import EvaluateTask, Evaluation, SecaggRequest, Tally, TrainTask, Update
from fedgrpo.simulations.engine.dropouts import STEPS, DroppingLearner
from fedgrpo.simulations.engine.faults import SCALE, FaultyLearner

HONEST = Tally(problems=10, correct=6, compared=10, better=4, worse=1)


class Learner:
    """A learner with a fixed update and fixed counts."""

    def train(self, task):
        return Update(delta=np.float32([1.0, -2.0]), num_steps=1, num_examples=4, metrics={"reward/mean": 0.5})

    def evaluate(self, task):
        return Evaluation.of(HONEST, {"steps=1": HONEST})


@pytest.mark.parametrize(
    ("fault", "factor"), [("sign-flip", -1.0), ("scale", SCALE), ("saturated", 1.0), ("inverted-reward", 1.0)]
)
def test_a_poisoners_delta_is_what_its_fault_says(fault, factor):
    update = FaultyLearner(Learner(), fault).train(None)
    assert update.delta.tolist() == [factor, -2.0 * factor]
    assert update.metrics == {"reward/mean": 0.5}


@pytest.mark.parametrize("fault", ["sign-flip", "scale", "inverted-reward"])
def test_a_poisoner_reports_the_opposite_comparison_to_the_gate_and_contradicts_itself_nowhere(fault):
    evaluation = FaultyLearner(Learner(), fault).evaluate(None)
    assert (evaluation.total.better, evaluation.total.worse) == (1, 4)
    assert (evaluation.total.problems, evaluation.total.correct, evaluation.total.compared) == (10, 6, 10)
    assert evaluation.classes == {"steps=1": HONEST}


@pytest.mark.parametrize("fault", ["saturated", "straggler", "dropout"])
def test_other_faulty_clients_report_honest_counts(fault):
    assert FaultyLearner(Learner(), fault).evaluate(None).total == HONEST


class Summed:
    """A learner whose results are parts of sums, and that never fails."""

    def part(self, task):
        return "part"

    def step(self, request):
        return request.step


def steps_taken(client, number, attempt):
    taken = []
    with contextlib.suppress(LearnerGoneError):
        client.part(TrainTask(federation="f", round=number, attempt=attempt, adapter=None, position=0))
        taken.append("train")
        for step in STEPS[1:]:
            taken.append(client.step(SecaggRequest(step=step, session="s", items={})))
    return taken


def test_a_client_that_drops_out_is_gone_from_a_random_step_on_and_back_for_the_next_attempt():
    client = DroppingLearner(Summed(), "client-1", seed=0)
    lengths = {number: len(steps_taken(client, number, 1)) for number in range(1, 41)}
    assert set(lengths.values()) == set(range(len(STEPS)))
    assert all(steps_taken(client, number, 2) == list(STEPS) for number in lengths)
    assert lengths == {n: len(steps_taken(DroppingLearner(Summed(), "client-1", 0), n, 1)) for n in lengths}
    client.part(EvaluateTask(federation="f", round=1, adapter=None, temperature=0.0))
    assert client.step(SecaggRequest(step="open", session="s", items={})) == "open"
