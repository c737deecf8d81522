"""Adam's second moment over the rounds of a client: the formula, the disk, and what must not change."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fedgrpo.client.learner.rewards import load_rewards
from fedgrpo.client.learner.training.kept_moments import KeptMoments, SecondMoment, resume, second_moment
from fedgrpo.client.learner.training.kept_state import KeptState
from fedgrpo.client.learner.training.local_learner import ClientData, LocalLearner
from fedgrpo.client.learner.training.watcher import Watcher
from fedgrpo.common.adapter.adapter import Adapter
from fedgrpo.common.adapter.schema import AdapterSchema, Module, split
from fedgrpo.common.errors import ConfigError
from fedgrpo.common.messages.messages import TrainTask
from fedgrpo.common.settings.run_config import RunConfig
from learners import PROBLEMS, make_config, make_model

SCHEMA = AdapterSchema(modules=(Module("m", 5, 3),), rank=2, alpha=4, holds=("A", "B"), seed=0)
B1, B2, RATE, DECAY, EPSILON = 0.9, 0.99, 0.05, 0.1, 1e-8


def task(number, counted=(0, 0), attempt=1, schema=SCHEMA):
    return TrainTask(
        federation="fed-1", round=number, attempt=attempt, adapter=Adapter.initial(schema), position=0,
        counted_round=counted[0], counted_attempt=counted[1],
    )  # fmt: skip


def by_hand(weight, gradients, rounds):
    """The formula of the module's docstring, in float64: v and its count run on, m starts again with each round."""
    v, t, steps = np.zeros_like(weight), 0, iter(gradients)
    for count in rounds:
        m = np.zeros_like(weight)
        for k in range(1, count + 1):
            gradient, t = next(steps), t + 1
            weight = weight - RATE * DECAY * weight
            m, v = B1 * m + (1 - B1) * gradient, B2 * v + (1 - B2) * gradient**2
            weight = weight - RATE * (m / (1 - B1**k)) / (np.sqrt(v / (1 - B2**t)) + EPSILON)
    return weight, v, t


@pytest.mark.parametrize("fused", [True, False])
def test_over_three_rounds_torchs_adamw_takes_the_steps_of_the_formula(fused):
    generator = np.random.default_rng(0)
    start, gradients = generator.normal(size=(2, 5)), generator.normal(size=(9, 2, 5)) * np.geomspace(0.01, 1, 5)
    parameter, moment = torch.nn.Parameter(torch.tensor(start, dtype=torch.float32)), SecondMoment.none(SCHEMA)
    parameters, steps = {("m", "A"): parameter}, iter(gradients)
    for count in (4, 2, 3):
        optimizer = torch.optim.AdamW([parameter], RATE, (B1, B2), EPSILON, DECAY, fused=fused)
        resume(optimizer, parameters, moment, SCHEMA)
        for _ in range(count):
            parameter.grad = torch.tensor(next(steps), dtype=torch.float32)
            optimizer.step()
        assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]) == (RATE, DECAY)
        moment = second_moment(optimizer, parameters, moment, SCHEMA)
    expected, square, t = by_hand(start, gradients, (4, 2, 3))
    np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(split(SCHEMA, moment.square)["m", "A"], square, rtol=1e-5)
    assert moment.steps == {"A": t, "B": 0}
    assert not split(SCHEMA, moment.square)["m", "B"].any()


def test_the_moment_that_counts_is_that_of_the_round_that_counted(tmp_path):
    moments = [SecondMoment(np.full(SCHEMA.size, float(n), np.float32), {"A": n, "B": 2 * n}) for n in range(4)]
    kept = KeptMoments(tmp_path)
    kept.keep(task(1), moments[1])
    kept.keep(task(2, (1, 1)), moments[2])  # void
    kept.keep(task(2, (1, 1), attempt=2), moments[3])
    for counted, expected in (((0, 0), 0), ((1, 1), 1), ((2, 1), 2), ((2, 2), 3)):
        loaded = KeptMoments(tmp_path).load(task(3, counted))  # another process reads it from the disk
        assert loaded.steps == moments[expected].steps
        assert (loaded.square == moments[expected].square).all()


@pytest.mark.parametrize("damage", [b"", b"damaged!", None])
def test_a_lost_or_damaged_moment_starts_empty_and_says_so(tmp_path, caplog, damage):
    kept = KeptMoments(tmp_path)
    kept.keep(task(1), SecondMoment(np.ones(SCHEMA.size, np.float32), {"A": 4, "B": 4}))
    file = tmp_path / "fed-1" / "1-1.moments"
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage)
    assert kept.load(task(2, (1, 1))).steps == {"A": 0, "B": 0}
    assert "round 1 is lost" in caplog.text


def test_a_moment_of_another_adapter_or_with_impossible_numbers_is_not_used(tmp_path):
    kept = KeptMoments(tmp_path)
    for square in (np.ones(3), np.full(SCHEMA.size, np.nan), np.full(SCHEMA.size, -1.0)):
        kept.keep(task(1), SecondMoment(square.astype(np.float32), {"A": 4, "B": 4}))
        assert not kept.load(task(2, (1, 1))).square.any()


def learner(model, folder):
    data = ClientData(
        organisation="client-0", shard=PROBLEMS, held_out=PROBLEMS[:2], rewards=load_rewards("gsm8k"), system_prompt="",
        kept=KeptState(folder),
    )  # fmt: skip
    return LocalLearner(model, data, Watcher())


def played(model, folder, rounds=3):
    """Return the deltas of some rounds, each by a learner of its own; the global adapter follows them."""
    deltas, adapter = [], Adapter.initial(model.schema)
    for number in range(1, rounds + 1):
        counted = (number - 1, 1) if number > 1 else (0, 0)
        asked = replace(task(number, counted, schema=model.schema), adapter=adapter)
        deltas.append(learner(model, folder).train(asked).delta)
        adapter = Adapter(model.schema, adapter.vector + deltas[-1])
    return deltas


def test_the_first_round_is_as_fresh_and_later_ones_go_on_deterministically(tmp_path):
    fresh = played(make_model(make_config()), tmp_path / "a")
    model = make_model(make_config(train__optimizer_state="kept"))
    kept, again = played(model, tmp_path / "b"), played(model, tmp_path / "c")
    assert not (tmp_path / "a").exists()
    assert (kept[0] == fresh[0]).all()
    assert all(np.abs(k - f).max() > 1e-4 for k, f in zip(kept[1:], fresh[1:], strict=True))
    assert all((a == b).all() for a, b in zip(kept, again, strict=True))
    adapter = Adapter(model.schema, Adapter.initial(model.schema).vector + kept[0] + kept[1])
    repeated = replace(task(3, (2, 1), attempt=2, schema=model.schema), adapter=adapter)
    assert (learner(model, tmp_path / "b").train(repeated).delta == kept[2]).all()
    assert KeptMoments(tmp_path / "b").load(task(4, (3, 1), schema=model.schema)).steps == {"A": 6, "B": 6}


def test_a_round_without_signal_leaves_the_moment_as_it_is(tmp_path):
    model = make_model(make_config(train__optimizer_state="kept"))
    own = learner(model, tmp_path)
    own.train(task(1, schema=model.schema))
    own._data = replace(own._data, rewards=load_rewards(str(_constant(tmp_path))))
    own.train(task(2, (1, 1), schema=model.schema))
    one, two = (KeptMoments(tmp_path).load(task(3, (n, 1), schema=model.schema)) for n in (1, 2))
    assert one.steps == two.steps == {"A": 2, "B": 2}
    assert (one.square == two.square).all()


def _constant(folder):
    file = folder / "same.py"
    file.write_text("def same(completions, **_):\n    return [1.0] * len(completions)\n")
    return file


def test_alternating_factors_keep_a_moment_each(tmp_path):
    model = make_model(make_config(train__optimizer_state="kept", aggregation__method="rolora"))
    played(model, tmp_path)
    one, three = (KeptMoments(tmp_path).load(task(4, (n, 1), schema=model.schema)) for n in (1, 3))
    assert (one.steps, three.steps) == ({"A": 0, "B": 2}, {"A": 2, "B": 4})
    parts = split(model.schema, three.square)
    assert all(part.any() for part in parts.values())


@pytest.mark.parametrize("method", ["svd", "flora"])
def test_methods_that_change_the_basis_cannot_keep_moments(method):
    with pytest.raises(ConfigError, match=f"{method}, whose aggregation changes the basis"):
        RunConfig().with_values({"train.optimizer-state": "kept", "aggregation.method": method})


def test_moments_in_eight_bits_cannot_be_kept():
    with pytest.raises(ConfigError, match="adamw_8bit"):
        RunConfig().with_values({"train.optimizer-state": "kept", "grpo.optim": "adamw_8bit"})
