"""Advantages without torch equal those that TRL's trainer computes, to 1e-6."""

import numpy as np
import pytest
import torch
from fedgrpo.client.learner.rewards import Reward
from fedgrpo.client.learner.rewards.advantages import advantages
from learners import PROBLEMS, make_config, make_learner, make_model

GROUPS, SIZE = 2, 4
CASES = {
    "one reward": [[[1], [0], [0], [1]], [[0.3], [0.7], [0.1], [0.2]]],
    "two rewards": [[[1, 0.5], [0, 0.5], [0, 0], [2, 0.1]], [[0, 1], [0, 1], [1, 0], [0, 0]]],
    "a group without signal": [[[1, 0], [1, 0], [1, 0], [1, 0]], [[0, 1], [0, 1], [1, 0], [0, 0]]],
    "one that was left out": [[[np.nan, 0], [1, np.nan], [np.nan, np.nan], [0, 1]], [[0, 1], [2, 1], [1, 0], [0, 0]]],
    "float noise": [[[0.1 + 0.2], [0.3], [0.3], [0.3]], [[0], [1], [0], [0]]],
}
WAYS = [("group", False), ("batch", False), ("none", False), ("group", True)]


@pytest.fixture(scope="module")
def trainer_of():
    """TRL's trainer for a way to make advantages; one for all cases."""
    made = {}

    def trainer(scale, normalize):
        if (scale, normalize) not in made:
            how = "normalize_then_sum" if normalize else "sum_then_normalize"
            model = make_model(make_config(grpo__scale_rewards=scale, grpo__multi_objective_aggregation=how))
            make_learner(model)
            made[scale, normalize] = model.trainer.trainer
        return made[scale, normalize]

    return trainer


def trls(trainer, rewards, weights):
    """Return the advantages that TRL's trainer gives the loss for these rewards, and which groups have a signal."""
    flat = rewards.reshape(GROUPS * SIZE, -1)
    functions = [
        Reward(f"reward-{i}", weight, lambda i=i, **_: [None if np.isnan(v) else v for v in flat[:, i]], "test")
        for i, weight in enumerate(weights)
    ]
    rows = [problem.row("") for problem in PROBLEMS[:GROUPS]]
    trainer.begin_round(rows, functions, seed=0, first_step=0)
    trainer.model.train()
    with torch.no_grad():
        scored = trainer._generate_and_score_completions([row for row in rows for _ in range(SIZE)])
    return scored["advantages"].numpy().reshape(GROUPS, SIZE), trainer.effective_P.numpy()


@pytest.mark.parametrize(("scale", "normalize"), WAYS)
@pytest.mark.parametrize("case", CASES)
def test_they_are_trls(trainer_of, case, scale, normalize):
    rewards = np.array(CASES[case], dtype=np.float32)
    weights = [1.0, 0.5][: rewards.shape[2]]
    theirs, signal = trls(trainer_of(scale, normalize), rewards, weights)
    ours = advantages(rewards, weights, scale_rewards=scale, normalize_first=normalize)
    np.testing.assert_allclose(ours.advantage, theirs, atol=1e-6)
    assert ours.signal.tolist() == signal.tolist()
    assert ours.signal[1]
