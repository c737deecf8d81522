"""Simulated faulty clients: each lies in the way its name says, and in no other."""

import numpy as np
import pytest
from fedgrpo.common.messages.messages import Evaluation, Tally, Update
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


@pytest.mark.parametrize("fault", ["saturated", "straggler"])
def test_other_faulty_clients_report_honest_counts(fault):
    assert FaultyLearner(Learner(), fault).evaluate(None).total == HONEST
