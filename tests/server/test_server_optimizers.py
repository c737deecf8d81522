"""The server's optimizers."""

import math

import numpy as np
import pytest
import torch
from fedgrpo.common.adapter.adapter import Adapter
from fedgrpo.common.errors import ConfigError
from fedgrpo.common.settings.aggregation import Aggregation
from fedgrpo.server.aggregation.server_optimizers import SERVER_OPTIMIZERS
from folds import folded, scalar


def steps_of(moves, **settings):
    adapter, memory, found = Adapter.initial(scalar()), {}, []
    for move in moves:
        step = folded(adapter, {"a": np.float32([move])}, memory=memory, **settings)
        found.append(float(step.adapter.minus(adapter)[0]))
        adapter, memory = step.adapter, step.memory
    return found


def test_the_servers_optimizers_by_hand():
    assert steps_of([1, 1], server_learning_rate=0.5) == pytest.approx([0.5, 0.5])
    assert steps_of([1, 0], server_optimizer="momentum", server_momentum=0.5) == pytest.approx([1, 1 / 3])
    assert steps_of([1, 0], server_optimizer="nesterov", server_momentum=0.5) == pytest.approx([1, 1 / 7])
    assert steps_of([2, 0], server_optimizer="adam", server_momentum=0.5) == pytest.approx([2, 2 / 3])


@pytest.mark.parametrize(("name", "nesterov"), [("nesterov", True), ("momentum", False)])
def test_with_a_sum_momentum_is_torchs_sgd_on_the_negative_deltas(name, nesterov):
    """DiLoCo's outer optimizer (arXiv:2311.08105): Nesterov with a learning rate of 0.7 and a momentum of 0.9."""
    settings = Aggregation(
        server_optimizer=name, server_accumulate="sum", server_learning_rate=0.7, server_momentum=0.9
    )
    optimizer, deltas = SERVER_OPTIMIZERS[name], np.random.default_rng(0).normal(size=(12, 5))
    memory, place = optimizer.init(5), np.zeros(5)
    weight = torch.nn.Parameter(torch.zeros(5, dtype=torch.float64))
    oracle = torch.optim.SGD([weight], lr=0.7, momentum=0.9, nesterov=nesterov)
    for delta in deltas:
        step, memory = optimizer.apply(delta, memory, settings)
        place += step
        weight.grad = torch.tensor(-delta)
        oracle.step()
        np.testing.assert_allclose(place, weight.detach().numpy(), rtol=1e-12)


@pytest.mark.parametrize("name", ["momentum", "nesterov"])
def test_a_damped_step_is_in_the_end_a_tenth_of_the_one_with_a_sum(name):
    steps = {}
    for accumulate in ("mean", "sum"):
        settings = Aggregation(server_optimizer=name, server_accumulate=accumulate)
        memory = SERVER_OPTIMIZERS[name].init(1)
        for _ in range(400):
            steps[accumulate], memory = SERVER_OPTIMIZERS[name].apply(np.ones(1), memory, settings)
    assert steps["mean"] == pytest.approx(1)
    assert steps["sum"] == pytest.approx(10)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_what_has_no_sum_refuses_one(name):
    with pytest.raises(ConfigError, match=f"server-optimizer is {name}, which has no such sum"):
        Aggregation(server_optimizer=name, server_accumulate="sum")


def test_adams_direction_by_hand():
    settings = Aggregation(server_optimizer="adam", server_momentum=0.5, server_beta2=0.75, server_epsilon=0.5)
    optimizer = SERVER_OPTIMIZERS["adam"]
    step, memory = optimizer.apply(np.array([3.0, 1.0, 0.0]), optimizer.init(3), settings)
    root_mean_square = math.sqrt(10 / 3)
    direction = [3 / (3 + root_mean_square / 2), 1 / (1 + root_mean_square / 2), 0]
    assert step == pytest.approx(np.array(direction) * root_mean_square / np.sqrt(np.mean(np.square(direction))))
    step, _ = optimizer.apply(np.array([-3.0, 1.0, 0.0]), memory, settings)
    assert np.linalg.norm(step) == pytest.approx(np.linalg.norm([-1.0, 1.0]))  # as long as the running mean, (-1, 1, 0)
    assert step[1] > -step[0] > 0  # what moves steadily moves further


@pytest.mark.parametrize("name", SERVER_OPTIMIZERS)
@pytest.mark.parametrize("scale", [1e-6, 1.0])
def test_every_optimizers_defaults_go_as_far_as_federated_averaging(name, scale):
    """With a steady delta of any size: ten times as far would destroy the policy, a tenth would not train it."""
    optimizer, settings = SERVER_OPTIMIZERS[name], Aggregation(server_optimizer=name)
    generator = np.random.default_rng(0)
    delta, memory, total = scale * generator.normal(size=1000), optimizer.init(1000), np.zeros(1000)
    for _ in range(8):
        step, memory = optimizer.apply(delta + 0.3 * scale * generator.normal(size=1000), memory, settings)
        total += step
    assert 0.8 < np.linalg.norm(total) / np.linalg.norm(8 * delta) < 1.25
    assert total @ delta / np.linalg.norm(total) / np.linalg.norm(delta) > 0.8
