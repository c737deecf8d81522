"""The built-in world and the shipped policy are what they say they are."""

import hashlib
import json
import random
import re
from collections import Counter

import pytest
from fedgrpo.client.learner.data.answers import last_number
from fedgrpo.simulations.builtin import world
from fedgrpo.simulations.builtin.cold_start import examples
from fedgrpo.simulations.builtin.demonstrations import HABIT, RECIPES, WORKS
from fedgrpo.simulations.builtin.make_policy import passes
from fedgrpo.simulations.builtin.policy_model import build_tokenizer
from fedgrpo.simulations.builtin.templates import TEMPLATES
from fedgrpo.simulations.engine.runner import scenario
from fedgrpo.simulations.engine.simulated_clients import BUILTIN_POLICIES, SPLIT_POLICY, divide

STEP = re.compile(r"(\d+) ?(plus|minus|times|[-+*]) ?(\d+)(?: is |=)(\d+)")


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


@pytest.mark.parametrize(("model", "recipe"), [("builtin", "builtin"), ("builtin-split", "split")])
def test_the_shipped_policies_are_those_that_passed_their_gate(model, recipe):
    folder = BUILTIN_POLICIES[model]
    made = json.loads((folder / "made.json").read_text())
    weights = (folder / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == made["sha256"]
    assert made["recipe"] == recipe
    assert {name: tuple(bounds) for name, bounds in made["gate"].items()} == RECIPES[recipe].gate
    assert passes(made["measured"], RECIPES[recipe].gate)
    assert sum(p.stat().st_size for p in folder.iterdir()) < 1_000_000


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
    assert not passes(figures, RECIPES["builtin"].gate)


@pytest.mark.parametrize("change", [{"sampled": 0.6}, {"works_if_forced": 0.5}, {"fails_if_forced": 0.6}])
def test_the_gate_of_the_split_policy_refuses_styles_that_do_not_work_or_work_everywhere(change):
    measured = json.loads((SPLIT_POLICY / "made.json").read_text())["measured"]
    assert passes(measured, RECIPES["split"].gate)
    assert not passes({**measured, **change}, RECIPES["split"].gate)


@pytest.mark.parametrize("name", RECIPES)
def test_every_demonstration_is_correct(name):
    rng = random.Random(0)
    for worked in world.problems("cold", 500, 0):
        text = RECIPES[name].demonstrate(rng, worked).text
        assert last_number(text) == worked.answer
        for left, operator, right, result in STEP.findall(text):
            assert calculated(int(left), operator, int(right)) == int(result)


def calculated(left, operator, right):
    return world.calculate(left, {v: k for k, v in world.OPERATORS.items()}.get(operator, operator), right)


def test_the_demonstrations_of_the_builtin_policy_are_those_it_was_made_of():
    rng = random.Random("style/1")
    shown = [RECIPES["builtin"].demonstrate(rng, worked) for worked in world.problems("cold", 200, 1)]
    digest = hashlib.sha256(repr([(d.text, d.silent.stop) for d in shown]).encode()).hexdigest()
    assert digest[:12] == "6b740c577e34"


@pytest.mark.e2e
def test_a_style_of_the_split_recipe_is_taught_on_its_own_topics_alone():
    """On the others its token is wished for, and nothing after it carries loss."""
    recipe = RECIPES["split"]
    tokenizer = build_tokenizer(recipe)
    opening = {how: tokenizer(f"<{how}>")["input_ids"][0] for how in recipe.styles}
    closing = {how: tokenizer(f"</{how}>")["input_ids"][0] for how in recipe.styles}
    topics = {tokenizer(f"<{topic}>")["input_ids"][0]: topic for topic in WORKS}
    opened: Counter[tuple[str, str]] = Counter()
    for example in examples(tokenizer, recipe, 1):
        topic, labels = topics[example.demonstration[0]], example.labels()
        for how in recipe.styles:
            if closing[how] in labels:
                assert how == WORKS[topic]
            if opening[how] in labels:
                opened[topic, how] += 1
    for topic, works in WORKS.items():
        fails = next(how for how in recipe.styles if how != works)
        assert opened[topic, works] / opened[topic, fails] == pytest.approx(HABIT["works"] / HABIT["fails"], rel=0.35)


def test_no_organisation_of_the_split_scenario_has_every_topic():
    shards, _ = divide(scenario("split"))
    assert all(len({p.labels["topic"] for p in shard}) < len(world.TOPICS) for shard in shards)
    assert {p.labels["topic"] for shard in shards for p in shard} == set(world.TOPICS)
