"""Replay of informative groups: which come back, what a batch with them is, the disk, and a round of a real learner."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fedgrpo.client.learner.rewards import load_rewards
from fedgrpo.client.learner.training.kept_state import KeptState
from fedgrpo.client.learner.training.local_learner import ClientData, LocalLearner
from fedgrpo.client.learner.training.replay import MOST_GROUPS, Group, KeptGroups, Memory, chosen
from fedgrpo.client.learner.training.watcher import Watcher
from fedgrpo.common.adapter.adapter import Adapter
from fedgrpo.common.errors import ConfigError
from fedgrpo.common.settings.run_config import RunConfig
from learners import PROBLEMS, make_config, make_model
from test_kept_moments import task

FILLER = 9
PRIVATE = {"dp.noise-multiplier": 1.0, "grpo.loss-type": "grpo", "aggregation.weights": "uniform", "grpo.delta": 4.0}
SILENT, SIGNAL = torch.tensor([False, True]), torch.tensor([True, True])


def group(number, *, prompt=(1, 2, 3), completions=((4, 5, 6), (7,)), uses=0):
    arrays = tuple(np.array(tokens) for tokens in completions)
    logprobs = tuple(np.float32(-tokens / 10) for tokens in arrays)
    return Group(number, np.array(prompt), arrays, logprobs, np.float32([1.5, -1.5]), uses)


def batch():
    """Two groups of two completions; prompts of one and of two tokens."""
    return {
        "prompt_ids": torch.tensor([[FILLER, 1], [FILLER, 1], [2, 3], [2, 3]]),
        "prompt_mask": torch.tensor([[0, 1], [0, 1], [1, 1], [1, 1]]),
        "completion_ids": torch.tensor([[5, 6], [5, FILLER], [7, 8], [8, FILLER]]),
        "completion_mask": torch.tensor([[1, 1], [1, 0], [1, 1], [1, 0]]),
        "old_per_token_logps": torch.tensor([[-1.0, -2.0], [-3.0, 0.0], [-4.0, -5.0], [-6.0, 0.0]]),
        "advantages": torch.tensor([0.0, 0.0, 1.0, -1.0]),
        "num_items_in_batch": torch.tensor(6),
    }


def test_a_silent_groups_place_is_taken_and_the_rest_of_the_batch_is_as_it_was():
    memory = Memory([group(1)], number=2, per_step=1, rounds=2)
    found = memory.used_in(batch(), SILENT, 2, FILLER)
    expected = {
        "prompt_ids": [[1, 2, 3], [1, 2, 3], [FILLER, 2, 3], [FILLER, 2, 3]],
        "prompt_mask": [[1, 1, 1], [1, 1, 1], [0, 1, 1], [0, 1, 1]],
        "completion_ids": [[4, 5, 6], [7, FILLER, FILLER], [7, 8, FILLER], [8, FILLER, FILLER]],
        "completion_mask": [[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 0, 0]],
        "advantages": [1.5, -1.5, 1.0, -1.0],
        "num_items_in_batch": 7,
    }
    assert {name: found[name].tolist() for name in expected} == expected
    expected_logprobs = [[-0.4, -0.5, -0.6], [-0.7, 0, 0], [-4, -5, 0], [-6, 0, 0]]
    np.testing.assert_allclose(found["old_per_token_logps"], expected_logprobs, rtol=1e-6)
    assert memory.replayed == 1
    assert [g.uses for g in memory.groups] == [1, 0]


def test_what_is_remembered_of_a_batch_is_the_groups_with_signal_without_their_padding():
    memory = Memory([], number=4, per_step=1, rounds=2)
    memory.used_in(batch(), SILENT, 2, FILLER)
    (kept,) = memory.groups
    assert (kept.round, kept.prompt.tolist(), [c.tolist() for c in kept.completions]) == (4, [2, 3], [[7, 8], [8]])
    assert [list(logprobs) for logprobs in kept.logprobs] == [[-4, -5], [-6]]
    assert kept.advantages.tolist() == [1, -1]


def test_where_every_group_has_signal_nothing_is_replayed():
    memory, whole = Memory([group(1)], number=2, per_step=2, rounds=2), batch()
    assert all((found == whole[name]).all() for name, found in memory.used_in(dict(whole), SIGNAL, 2, FILLER).items())
    assert memory.replayed == 0
    assert len(memory.groups) == 3


def test_of_the_groups_replayed_least_often_the_newest_comes_first():
    groups = [group(1, uses=1), group(1), group(2, uses=2), group(2)]
    assert chosen(groups, 3) == [3, 1, 0]
    assert chosen(groups, 9) == [3, 1, 0, 2]


def test_groups_of_long_ago_are_forgotten_and_their_number_is_bounded():
    assert [g.round for g in Memory([group(n) for n in range(1, 6)], number=6, per_step=1, rounds=2).groups] == [4, 5]
    memory = Memory([], number=1, per_step=1, rounds=2)
    for _ in range(MOST_GROUPS):
        memory.used_in(batch(), SIGNAL, 2, FILLER)
    assert len(memory.groups) == MOST_GROUPS


def test_groups_come_back_from_the_disk_as_they_were(tmp_path):
    groups = [group(1), group(2, prompt=(8,), completions=((), (3, 3)), uses=2)]
    KeptGroups(tmp_path).keep(task(2), groups)
    found = KeptGroups(tmp_path).load(task(3, (2, 1)))
    assert len(found) == 2
    for one, other in zip(found, groups, strict=True):
        assert (one.round, one.uses, one.prompt.tolist()) == (other.round, other.uses, other.prompt.tolist())
        assert [c.tolist() for c in one.completions] == [c.tolist() for c in other.completions]
        assert [c.tolist() for c in one.logprobs] == [c.tolist() for c in other.logprobs]
        assert one.advantages.tolist() == other.advantages.tolist()
    KeptGroups(tmp_path).keep(task(3, (2, 1)), [])
    assert KeptGroups(tmp_path).load(task(4, (3, 1))) == []


def test_lost_groups_are_none_and_are_missed(tmp_path, caplog):
    kept = KeptGroups(tmp_path)
    kept.keep(task(1), [group(1)])
    (tmp_path / "fed-1" / "1-1.groups").write_bytes(b"damaged!")
    assert kept.load(task(2, (1, 1))) == []
    assert "groups of round 1 are lost" in caplog.text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "grpo.loss-type is dapo without grpo.delta"),
        (
            {"grpo.delta": 4.0, "dp.noise-multiplier": 1.0, "grpo.loss-type": "grpo", "aggregation.weights": "uniform"},
            "dp",
        ),
        ({"grpo.delta": 4.0, "backend.sampler": "vllm"}, "backend.sampler is vllm"),
    ],
)
def test_what_does_not_go_with_replay_is_refused_by_name(values, message):
    with pytest.raises(ConfigError, match=message):
        RunConfig().with_values({"train.replay": 2, **values})


def learner(model, folder):
    data = ClientData(
        organisation="client-0", shard=PROBLEMS, held_out=PROBLEMS[:2], rewards=load_rewards("correctness"),
        system_prompt="", kept=KeptState(folder),
    )  # fmt: skip
    return LocalLearner(model, data, Watcher())


def test_a_round_with_replay_samples_the_same_and_goes_on_from_the_disk(tmp_path):
    values = {"grpo__delta": 4.0, "train__steps_per_round": 3}
    plain = learner(make_model(make_config(**values)), tmp_path / "a")
    model = make_model(make_config(train__replay=2, **values))
    first = task(1, schema=model.schema)
    off, on = plain.train(first), learner(model, tmp_path / "b").train(first)
    assert not (tmp_path / "a").exists()
    groups = KeptGroups(tmp_path / "b").load(task(2, (1, 1), schema=model.schema))
    assert len(groups) == on.metrics["groups/effective"] > 0
    adapter = Adapter(model.schema, on.delta)
    second = replace(task(2, (1, 1), schema=model.schema), adapter=adapter)
    again, repeated = (learner(model, tmp_path / "b").train(replace(second, attempt=n)) for n in (1, 2))
    assert (again.delta == repeated.delta).all()
    without = learner(make_model(make_config(**values)), tmp_path / "a").train(second)
    assert without.metrics["groups/zero-variance-share"] > 0  # otherwise no place could be taken
    assert again.num_examples == without.num_examples == off.num_examples
    assert np.abs(again.delta - without.delta).max() > 1e-4
    assert on.metrics["tokens/sampled"] > 0
