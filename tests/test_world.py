"""The built-in world and the shipped policy are what they say they are."""

import hashlib
import json
import re
from collections import Counter

import pytest
from fedgrpo.simulations.builtin import world
from fedgrpo.simulations.builtin.make_policy import GATE, passes
from fedgrpo.simulations.builtin.templates import TEMPLATES
from fedgrpo.simulations.virtual import BUILTIN_POLICY


def test_every_topic_has_the_designed_mix_of_templates():
    assert len(TEMPLATES) == 5
    for templates in TEMPLATES.values():
        assert Counter(len(plan.split()) for _, plan in templates) == {1: 3, 2: 3, 3: 2}


@pytest.mark.parametrize("split", world.SPLITS)
def test_the_working_is_right_and_leads_to_the_answer(split):
    for worked in world.problems(split, 300, 0):
        for x, operator, y, result in worked.steps:
            assert eval(f"{x}{operator}{y}") == result
            assert 0 < result < world.RESULT_BELOW
        assert worked.answer == str(worked.steps[-1][3])
        used = {n for x, _, y, _ in worked.steps for n in (x, y)} - {s[3] for s in worked.steps}
        assert used <= {int(n) for n in re.findall(r"\d+", worked.question)}


def test_splits_share_no_combination_of_numbers():
    def numbers(split):
        return {
            tuple(sorted(int(n) for n in re.findall(r"\d+", w.question)))
            for w in world.problems(split, 800, 3)
            if not w.question.startswith(("Bus", "It is"))
            and " years old" not in w.question
            and "birds" not in w.question
        }

    splits = list(world.SPLITS)
    for i, one in enumerate(splits):
        for other in splits[i + 1 :]:
            assert not numbers(one) & numbers(other), (one, other)


def test_problems_are_the_same_on_every_machine():
    first = world.problems("test", 3, 1)
    assert first == world.problems("test", 3, 1)
    assert first != world.problems("test", 3, 2)
    assert (
        hashlib.sha256("".join(w.question for w in world.problems("train", 50, 0)).encode()).hexdigest()[:12]
        == "aad693a0abec"
    )


def test_operators_and_steps_come_in_the_designed_shares():
    found = world.problems("train", 3000, 0)
    steps = Counter(len(w.steps) for w in found)
    for count, share in world.STEP_SHARES.items():
        assert steps[count] / 3000 == pytest.approx(share, abs=0.04)
    assert min(Counter(w.steps[-1][1] for w in found).values()) > 600


def test_the_shipped_policy_is_the_one_that_passed_the_gate():
    made = json.loads((BUILTIN_POLICY / "made.json").read_text())
    weights = (BUILTIN_POLICY / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == made["sha256"]
    assert made["gate"] == GATE
    assert passes(made["measured"])
    assert sum(p.stat().st_size for p in BUILTIN_POLICY.iterdir()) < 1_000_000


@pytest.mark.parametrize(
    "figures",
    [
        {"sampled": 0.6, "reasoned_if_forced": 0.9, "reasons": 0.2},
        {"sampled": 0.2, "reasoned_if_forced": 0.5, "reasons": 0.2},
        {"sampled": 0.2, "reasoned_if_forced": 0.9, "reasons": 0.9},
        {"sampled": 0.01, "reasoned_if_forced": 0.9, "reasons": 0.2},
    ],
)
def test_the_gate_refuses_a_policy_without_room_skill_or_habit(figures):
    assert not passes(figures)
