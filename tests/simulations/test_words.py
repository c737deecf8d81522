"""The world of word problems in English, worked-out demonstrations, and the supervised start that uses them."""

import collections
import os
import re

import pytest
from fedgrpo.client.learner.rewards.catalogue import BUILT_IN
from fedgrpo.common.errors import ConfigError, DivergedError, RunError
from fedgrpo.common.settings.run_config import RunConfig
from fedgrpo.simulations.engine.datasets import demonstrations, load_problems
from fedgrpo.simulations.engine.runner import scenario
from fedgrpo.simulations.engine.start import started
from fedgrpo.simulations.study import session
from fedgrpo.simulations.words.world import LARGEST, ONE_STEP_SHARE, problems, templates

WORDS = RunConfig().with_values({"simulation.dataset": "words", "simulation.system-prompt": "hash"})


def evaluated(worked):
    """The result of the steps, calculated anew by Python from the text of the working."""
    results = []
    for line in worked.working.splitlines():
        left, operator, right, result = re.fullmatch(r"(\d+) ([-+*/]) (\d+) = (\d+)", line).groups()
        assert eval(f"{left} {operator} {right}") == int(result)
        results.append(int(result))
    return results[-1]


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_problem_is_worked_out_right_from_the_numbers_that_it_gives(split):
    for worked in problems(split, 600, 3):
        assert evaluated(worked) == int(worked.answer)
        given = [int(number) for number in re.findall(r"\d+", worked.question)]
        used = [x for left, _, right, _ in worked.steps for x in (left, right)]
        assert set(used) <= {*given, *(step[3] for step in worked.steps[:-1])}
        assert all(0 < number <= LARGEST for number in (*given, *used))
        assert not re.search(r"[{}]", worked.question)


def test_held_out_problems_share_no_template_with_training_and_have_every_operation():
    known = templates()
    assert len(known) >= 72
    assert len({template.text for template in known}) == len(known)
    of = {split: {worked.template for worked in problems(split, 2000, 1)} for split in ("train", "test")}
    assert of["train"] == {template for template in known if not template.held_out}
    assert of["test"] == {template for template in known if template.held_out}
    for split in of.values():
        assert {template.operations for template in split} >= set("+-*/")
        assert {template.topic for template in split} == {"clinic", "shop", "farm", "school"}


def test_problems_differ_and_topics_and_operations_are_even():
    drawn = problems("train", 1200, 5)
    assert len({worked.question for worked in drawn}) == 1200
    assert set(collections.Counter(worked.template.topic for worked in drawn).values()) == {300}
    one_step = [worked for worked in drawn if len(worked.steps) == 1]
    assert len(one_step) / 1200 == pytest.approx(ONE_STEP_SHARE, abs=0.04)
    for count in collections.Counter(worked.template.operations for worked in one_step).values():
        assert count / len(one_step) == pytest.approx(0.25, abs=0.05)
    assert problems("train", 20, 5) == drawn[:20] != problems("train", 20, 6)


@pytest.mark.parametrize("dataset", ["words", "builtin"])
def test_most_steps_leaves_longer_problems_out_of_both_splits(dataset):
    values = {"simulation.dataset": dataset, "simulation.most-steps": 1, "simulation.problems": 50}
    for split in load_problems(WORDS.with_values(values)):
        assert {problem.labels["steps"] for problem in split} == {"1"}


def test_most_steps_of_gsm8k_counts_calculations_and_says_if_nothing_is_left(tmp_path):
    rows = ['{"question": "1+1?", "answer": "It is <<1+1=2>>2.\\n#### 2"}']
    rows += ['{"question": "1+1+1?", "answer": "<<1+1=2>>2, then\\n<<2+1=3>>3\\n#### 3"}']
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(rows))
    values = {"simulation.dataset": "gsm8k", "simulation.data": str(tmp_path)}
    config = WORDS.with_values(values | {"simulation.most-steps": 1})
    assert [[p.question for p in split] for split in load_problems(config)] == [["1+1?"], ["1+1?"]]
    assert demonstrations(config, 5) == [("1+1?", "It is 2.\n#### 2")]
    (tmp_path / "test.jsonl").write_text(rows[1])
    with pytest.raises(ConfigError, match="not one problem is that short"):
        load_problems(config)


@pytest.mark.parametrize(
    ("prompt", "rewards"), [("hash", ("hash-correctness",)), ("xml", ("correctness", "strict-format"))]
)
def test_a_demonstration_earns_every_reward_of_its_form(prompt, rewards):
    config = WORDS.with_values({"simulation.system-prompt": prompt})
    shown = demonstrations(config, 40)
    answers = [worked.answer for worked in problems("train", 40, demonstration_seed(config))]
    for name in rewards:
        paid = BUILT_IN[name]([text for _, text in shown], answer=answers)
        assert paid == [max(paid)] * 40
        assert max(paid) > 0


def demonstration_seed(config):
    from fedgrpo.common.seeds import derived_seed

    return derived_seed(config.federation.seed, "start")


def test_a_start_needs_a_form_to_show():
    with pytest.raises(ConfigError, match="asks for no form that worked-out problems could show"):
        started(WORDS.with_values({"simulation.system-prompt": "none", "simulation.start-steps": 3}))


def test_without_a_start_the_settings_stay_as_they_are():
    assert started(WORDS) is WORDS


@pytest.mark.e2e
def test_a_start_is_made_once_and_is_the_base_model_from_then_on(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDGRPO_CACHE", str(tmp_path))
    config = WORDS.with_values({"simulation.start-steps": 2, "simulation.dataset": "builtin"})
    first = started(config)
    made = (tmp_path / "models").iterdir()
    assert [str(folder) for folder in made] == [first.model.name]
    assert first.simulation.start_steps == 0
    assert started(config.with_values({"federation.seed": 7})).model.name == first.model.name
    assert started(config.with_values({"simulation.start-steps": 3})).model.name != first.model.name


def end_early(*_):
    os._exit(9)


def diverge(sender, _):
    sender.send(DivergedError("The loss of step 1 is nan."))


@pytest.mark.e2e
def test_an_error_of_teaching_is_told_as_it_was_raised(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDGRPO_CACHE", str(tmp_path))
    monkeypatch.setattr("fedgrpo.simulations.engine.start._teach", diverge)
    config = WORDS.with_values({"simulation.start-steps": 2, "simulation.dataset": "builtin"})
    with pytest.raises(DivergedError, match="The loss of step 1 is nan"):
        started(config)


@pytest.mark.e2e
def test_a_process_that_dies_while_it_teaches_is_told_of(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDGRPO_CACHE", str(tmp_path))
    monkeypatch.setattr("fedgrpo.simulations.engine.start._teach", end_early)
    config = WORDS.with_values({"simulation.start-steps": 2, "simulation.dataset": "builtin"})
    with pytest.raises(RunError, match="ended early, with exit status 9"):
        started(config)
    assert not (tmp_path / "models").exists()


@pytest.mark.e2e
def test_a_study_begins_with_the_taught_model_and_knows_its_finished_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDGRPO_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "taught.toml"
    file.write_text(
        '[study]\nquestion = "Is it run once?"\nscenario = "builtin"\nseeds = [0]\nbaseline = "a"\n'
        '[settings]\n"federation.rounds" = 1\n"simulation.clients" = 2\n"train.steps-per-round" = 1\n'
        '"evaluation.problems" = 10\n"simulation.start-steps" = 1\n"simulation.system-prompt" = "hash"\n'
        '[arms.a]\n[arms.b]\n"grpo.learning-rate" = 1e-3\n'
    )
    first = session.study(file, tmp_path, jobs=2, quick=False, only_tabulate=False)
    assert not first.failed
    assert set(first.result["arms"]) == {"a", "b"}
    made = {path: path.stat().st_mtime_ns for path in tmp_path.glob("taught/runs/*/*/journal.jsonl")}
    assert len(made) == 2
    again = session.study(file, tmp_path, jobs=2, quick=False, only_tabulate=False)
    assert again.result == first.result
    assert {path: path.stat().st_mtime_ns for path in made} == made


def test_the_scenario_gives_two_organisations_other_topics_and_rewards():
    from fedgrpo.simulations.engine.simulated_clients import client_rewards, divide

    config = scenario("smollm2")
    topics = [{problem.labels["topic"] for problem in shard} for shard in divide(config)[0]]
    assert [len(each) for each in topics] == [2, 2]
    assert not topics[0] & topics[1]
    names = [{reward.name for reward in rewards} for rewards in client_rewards(config)]
    assert names[0] != names[1]
