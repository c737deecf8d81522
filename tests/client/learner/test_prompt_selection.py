"""Prompts by expected signal in the learner: what it notes is what the prompts showed, and a resume goes on from it."""

import json
from dataclasses import replace

import numpy as np
import pytest
from fedgrpo.client.learner.data.problems import Problem, in_blocks
from fedgrpo.client.learner.data.shard_reader import unit_of
from fedgrpo.client.learner.data.signal_record import SignalRecord
from fedgrpo.client.learner.rewards import Reward
from fedgrpo.client.learner.training.local_learner import ClientData, LocalLearner
from fedgrpo.client.learner.training.watcher import Watcher
from fedgrpo.common.adapter.adapter import Adapter
from fedgrpo.common.messages.messages import TrainTask
from learners import PROBLEMS, make_config, make_learner, make_model


@pytest.fixture(scope="module")
def by_signal():
    return make_model(make_config(train__prompt_selection="signal"))


def first_is_right(prompts, completions, **_):
    """Reward one completion of each group whose prompt has an even number of letters, and none of the others."""
    questions = [prompt[-1]["content"] for prompt in prompts]
    return [float(len(q) % 2 == 0 and q not in questions[:i]) for i, q in enumerate(questions)]


def learner(model, folder, block=1):
    rewards = (Reward("first", 1.0, first_is_right, "test"),)
    data = ClientData(organisation="client-0", shard=PROBLEMS, held_out=PROBLEMS[:6], rewards=rewards, system_prompt="")
    return LocalLearner(model, replace(data, block=block, record=SignalRecord(folder)), Watcher())


def task(model, number=1, position=0, attempt=1):
    adapter = Adapter.initial(model.schema)
    return TrainTask(federation="f", round=number, attempt=attempt, adapter=adapter, position=position)


def lines(folder):
    return [json.loads(line) for line in (folder / "f.jsonl").read_text().splitlines()]


def signal_of(problem: Problem):
    return 0.5 * (len(problem.question) % 2 == 0)  # 3 of the 6 pairs in a group of 4


def test_each_prompt_gets_the_signal_of_its_own_group(by_signal, tmp_path):
    update = learner(by_signal, tmp_path).train(task(by_signal))
    known = {unit_of([problem]): signal_of(problem) for problem in PROBLEMS}
    (line,) = lines(tmp_path)
    assert len(line["units"]) == update.num_examples == line["end"] == 4
    assert line["units"] == {unit: [pytest.approx(known[unit])] for unit in line["units"]}
    effective = sum(known[unit] > 0 for unit in line["units"])
    assert update.metrics["groups/effective"] == effective
    assert not any("signal" in name for name in update.metrics)


def test_blocks_get_the_mean_of_their_prompts(by_signal, tmp_path):
    learner(by_signal, tmp_path, block=4).train(task(by_signal))
    (line,) = lines(tmp_path)
    shard = in_blocks(PROBLEMS, by_signal.prompt_lengths(PROBLEMS, ""), 4, 512)
    blocks = [shard[start : start + 4] for start in range(0, len(shard), 4)]
    ((unit, shown),) = line["units"].items()
    (block,) = [block for block in blocks if unit_of(block) == unit]
    assert shown == [pytest.approx(np.mean([signal_of(problem) for problem in block]))]


def test_a_round_trained_again_after_a_crash_is_the_same_bit_for_bit(by_signal, tmp_path):
    own = learner(by_signal, tmp_path)
    own.train(task(by_signal))
    second = own.train(task(by_signal, 2, 4))
    again = learner(by_signal, tmp_path).train(task(by_signal, 2, 4))  # another process, which reads the record
    assert (again.delta == second.delta).all()
    assert np.linalg.norm(second.delta) > 0
    written = lines(tmp_path)
    assert written[1] == written[2]


def test_in_order_the_same_prompts_are_read_as_without_a_record(model, tmp_path):
    plain = make_learner(model, rewards=(Reward("first", 1.0, first_is_right, "test"),)).train(task(model))
    kept = learner(model, tmp_path).train(task(model))
    assert (plain.delta == kept.delta).all()
    assert list(tmp_path.iterdir()) == []


def steps_taken(rewards_by_step, least, steps=4, block=1, prompts=2):
    """Return the steps of a round in which the groups of step i have signal as `rewards_by_step[i]` says."""
    config = make_config(train__min_signal=least, train__steps_per_round=steps)
    assert config.grpo.prompts_per_step == prompts
    asked = []

    def reward(completions, trainer_state, **_):
        if trainer_state is None:  # the trial
            return [0.0] * len(completions)
        signal = rewards_by_step[len(asked)]
        asked.append(signal)
        groups = [[1.0, 0.0, 0.0, 0.0]] * signal + [[0.0] * 4] * (prompts - signal)
        return [value for group in groups for value in group]

    model = make_model(config)
    data = ClientData(
        organisation="client-0",
        shard=PROBLEMS,
        held_out=PROBLEMS[:6],
        rewards=(Reward("given", 1.0, reward, "test"),),
        system_prompt="",
        block=block,
    )
    update = LocalLearner(model, data, Watcher()).train(task(model))
    assert update.num_examples == prompts * update.num_steps == prompts * len(asked)
    assert update.metrics["groups/effective"] == sum(asked)
    return update.num_steps


def test_a_round_ends_where_the_signal_has_run_out_and_not_before():
    assert steps_taken([1, 0, 0, 2], 0.25) == 3  # after a step without signal there is still a quarter; after two, none
    assert steps_taken([0, 0, 2, 2], 0.25) == 2
    assert steps_taken([0, 1, 0, 1], 0.25) == 4
    assert steps_taken([0, 0, 0, 0], 0.0) == 4


def test_a_round_of_blocks_ends_after_whole_blocks_and_by_whole_blocks():
    assert steps_taken([2, 2, 0, 0, 0, 0], 0.25, steps=6, block=6) == 6  # 4 of the first 6 groups have signal
    assert steps_taken([1, 0, 0, 2, 2, 2], 0.25, steps=6, block=6) == 3
