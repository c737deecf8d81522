"""Private GRPO: what one unit can change, what is added, and what leaves."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from fedgrpo.client.learner.data.problems import Problem
from fedgrpo.client.learner.privacy import clipping
from fedgrpo.client.learner.privacy.clipping import ClippedSum
from fedgrpo.client.learner.privacy.rounds import PrivateRounds
from fedgrpo.client.learner.privacy.spent import Spent
from fedgrpo.client.learner.rewards import Reward
from fedgrpo.client.learner.training.local_learner import ClientData, LocalLearner
from fedgrpo.client.learner.training.private_trainer import in_pieces
from fedgrpo.client.learner.training.watcher import Watcher
from fedgrpo.common.adapter.adapter import Adapter
from fedgrpo.common.errors import ConfigError, PolicyError
from fedgrpo.common.messages.messages import TrainTask
from fedgrpo.common.settings.run_config import RunConfig
from learners import PROBLEMS, make_config, make_learner, make_model

PRIVATE = {"dp__noise_multiplier": 1.0, "grpo__loss_type": "dr_grpo", "aggregation__weights": "uniform"}
LETTERS = Reward("letters", 1.0, lambda completions, **_: [float(len(c[0]["content"])) for c in completions], "test")


@pytest.fixture(scope="module")
def private_model():
    return make_model(make_config(**PRIVATE, dp__clip_norm=0.005))


def task(model, number=1, attempt=1):
    adapter = Adapter.initial(model.schema)
    return TrainTask(federation="f", round=number, attempt=attempt, adapter=adapter, position=0)


class Grads(Watcher):
    """Keeps what leaves and what stays."""

    def __init__(self):
        self.metrics = None

    def trained(self, number, metrics):
        self.metrics = metrics


# --- the clipped sum --------------------------------------------------------------------------------------------------


def parameters(*sizes):
    return [torch.nn.Parameter(torch.zeros(size)) for size in sizes]


def add(total, trained, *gradients):
    for parameter, gradient in zip(trained, gradients, strict=True):
        parameter.grad = None if gradient is None else torch.tensor(gradient)
    total.add_unit()


def test_a_unit_is_clipped_over_all_factors_together_and_a_short_one_is_not():
    one = parameters(2, 1)
    total = ClippedSum(one, clip_norm=1.0)
    add(total, one, [3.0, 0.0], [4.0])  # norm 5: scaled to 0.6 and 0.8
    add(total, one, [0.0, 0.5], None)  # norm 0.5: as it is
    total.release(0.0, expected=4)
    np.testing.assert_allclose(one[0].grad, [0.6 / 4, 0.5 / 4], rtol=2e-6)
    np.testing.assert_allclose(one[1].grad, [0.8 / 4], rtol=2e-6)
    assert (total.units, total.clipped) == (2, 1)


def test_no_unit_can_move_the_sum_by_more_than_the_clip_norm():
    one = parameters(1000)
    for seed in range(20):
        total = ClippedSum(one, clip_norm=0.1)
        add(total, one, np.random.default_rng(seed).normal(size=1000).astype(np.float32) * 10.0**seed)
        total.release(0.0, expected=1)
        assert float(one[0].grad.double().norm()) <= 0.1


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e38])
def test_a_gradient_that_is_not_finite_counts_as_nothing_and_spoils_nothing(bad):
    one = parameters(2)
    total = ClippedSum(one, clip_norm=1.0)
    add(total, one, [bad, 1.0])
    add(total, one, [0.5, 0.0])
    total.release(0.0, expected=1)
    expected = [0.5, 0.0] if bad != 1e38 else [1.5, 0.0]
    np.testing.assert_allclose(one[0].grad, expected, rtol=2e-6, atol=1e-30)


def test_noise_has_the_variance_that_is_accounted_for_also_in_an_empty_batch_and_in_untouched_factors():
    one = parameters(60_000, 60_000)
    total = ClippedSum(one, clip_norm=0.5)
    add(total, one, None, None)
    total.release(3.0, expected=8)
    for parameter in one:
        assert float(parameter.grad.std()) == pytest.approx(3.0 * 0.5 / 8, rel=0.02)
        assert abs(float(parameter.grad.mean())) < 5 * 3.0 * 0.5 / 8 / math.sqrt(60_000)
    first = one[0].grad.clone()
    torch.manual_seed(0)
    ClippedSum(one, 0.5).release(3.0, expected=8)
    torch.manual_seed(0)
    second = one[0].grad.clone()
    ClippedSum(one, 0.5).release(3.0, expected=8)
    assert not torch.equal(second, one[0].grad)  # the run's seed decides nothing
    assert not torch.equal(first, one[0].grad)


# --- a step -----------------------------------------------------------------------------------------------------------


def gradients_of(model, batch, monkeypatch, *, noise=0.0, expected=1.0, alone=False):
    """Run one step on a batch of units; return the released gradient, and each unit's own as it was added."""
    trainer, seen, released = model.trainer, [], []
    original, let_go = ClippedSum.add_unit, ClippedSum.release

    def add_unit(self):
        seen.append(torch.cat([p.grad.flatten().clone() for p in self._parameters if p.grad is not None]))
        original(self)

    def release(self, multiplier, count, *rest):
        let_go(self, noise, count, *rest)
        released.append(torch.cat([p.grad.flatten().clone() for p in self._parameters]))

    monkeypatch.setattr(clipping.ClippedSum, "add_unit", add_unit)
    monkeypatch.setattr(clipping.ClippedSum, "release", release)
    trainer.adapted.load(Adapter.initial(model.schema))
    trainer.adapted.trains = ("B",)
    trainer.adapted.freeze()
    trainer.trainer.begin_round([PROBLEMS[0].row("")], (LETTERS,), seed=0, first_step=0)
    trainer.trainer.expected_units = expected
    trainer.trainer.current_gradient_accumulation_steps = 1
    trainer.trainer.training_step(trainer.trainer.model, batch)
    for parameter in trainer.trainer.model.parameters():
        parameter.grad = None
    return released[0], seen


def rows(*problems):
    return [p.row("") for p in problems]


def test_a_step_is_the_sum_of_clipped_units_over_the_expected_number(private_model, monkeypatch):
    batch = [rows(*PROBLEMS[:3]), *(rows(problem) for problem in PROBLEMS[3:15])]
    released, seen = gradients_of(private_model, batch, monkeypatch, expected=7.5)
    assert len(seen) == 13  # a unit of three prompts is one unit
    clip = private_model.config.dp.clip_norm
    norms = [float(g.norm()) for g in seen]
    assert max(norms) > clip  # or nothing would be clipped here
    expected = sum(g * min(1.0, clip / max(n, 1e-12)) for g, n in zip(seen, norms, strict=True)) / 7.5
    assert float((released - expected).norm() / expected.norm()) < 1e-5


def test_an_empty_batch_is_a_step_of_noise(private_model, monkeypatch):
    released, seen = gradients_of(private_model, [], monkeypatch, noise=2.0, expected=4.0)
    assert seen == []
    clip = private_model.config.dp.clip_norm
    assert float(released.std()) == pytest.approx(2.0 * clip / 4.0, rel=0.1)


def test_rewards_and_gradients_of_a_unit_do_not_depend_on_who_else_is_in_the_batch(private_model, monkeypatch):
    """With fixed completions, the gradient of a unit alone and among others is the same."""
    trainer = private_model.trainer.trainer
    asked = []

    def whole_batch(prompts, completions, **_):
        """A reward that would leak if it saw other units: it ranks what it is given."""
        asked.append({p[-1]["content"] for p in prompts})
        lengths = [len(c[0]["content"]) for c in completions]
        return [float(sorted(lengths).index(n)) for n in lengths]

    sampled = {}

    def sampler(prompt_ids, sampling, *, count, base=False):
        groups = []
        for ids in prompt_ids:
            if tuple(ids) not in sampled:
                (sampled[tuple(ids)],) = real.sample([ids], sampling, count=count)
            groups.append(sampled[tuple(ids)])
        return groups

    real = trainer.sampler
    monkeypatch.setattr(trainer, "sampler", type("Fixed", (), {"sample": staticmethod(sampler)})())
    monkeypatch.setattr("test_private_trainer.LETTERS", Reward("rank", 1.0, whole_batch, "test"))
    batch = [rows(p) for p in PROBLEMS[:5]]
    _, together = gradients_of(private_model, batch, monkeypatch)
    assert all(len(prompts) == 1 for prompts in asked)
    _, alone = gradients_of(private_model, [batch[3]], monkeypatch)
    assert float(alone[0].norm()) > 0
    assert float((together[3] - alone[0]).norm() / alone[0].norm()) < 1e-5


def test_pieces_keep_units_whole():
    batch = [["a", "b"], ["c"], ["d", "e", "f"], ["g"]]
    assert list(in_pieces(batch, 3)) == [[["a", "b"], ["c"]], [["d", "e", "f"]], [["g"]]]
    assert list(in_pieces(batch, 1)) == [[unit] for unit in batch]
    assert list(in_pieces([], 3)) == []


# --- a round ----------------------------------------------------------------------------------------------------------


def test_only_epsilon_and_public_numbers_leave_a_private_round(private_model):
    watcher = Grads()
    learner = make_learner(private_model, watcher=watcher)
    can = learner.capabilities()
    assert can.metrics == ("privacy/epsilon",)
    assert can.reward_names == ()
    update = learner.train(task(private_model))
    assert set(update.metrics) == {"privacy/epsilon"}
    assert (update.num_steps, update.num_examples) == (2, 4)  # as planned, whatever chance took
    assert update.metrics["privacy/epsilon"] > 0
    assert "reward/mean" in watcher.metrics  # the organisation itself sees everything; 0 where chance took nobody
    again = learner.train(task(private_model))
    assert again.metrics["privacy/epsilon"] > update.metrics["privacy/epsilon"]
    assert np.linalg.norm(update.delta - again.delta) > 0  # other noise, although everything asked for is the same


def test_a_round_without_signal_still_moves_the_adapter(private_model):
    flat = Reward("flat", 1.0, lambda completions, **_: [1.0] * len(completions), "test")
    update = make_learner(private_model, rewards=(flat,)).train(task(private_model))
    assert np.linalg.norm(update.delta) > 0  # whether there was any is private


def test_a_round_of_empty_batches_is_a_round(private_model, monkeypatch):
    monkeypatch.setattr(PrivateRounds, "batches", lambda self, system_prompt: [[], []])
    update = make_learner(private_model).train(task(private_model))
    assert update.num_steps == 2
    assert np.linalg.norm(update.delta) > 0


def test_the_budget_is_charged_before_the_work_and_ends_it(private_model, tmp_path):
    asked = []
    spy = Reward("spy", 1.0, lambda completions, **_: asked.append(1) or [0.0] * len(completions), "test")
    path = tmp_path / "privacy.jsonl"
    shard = [Problem(p.question, p.answer, p.labels, unit=f"patient-{i // 2}") for i, p in enumerate(PROBLEMS)]

    def learner(limit):
        data = ClientData(
            organisation="clinic",
            shard=shard,
            held_out=PROBLEMS[:6],
            rewards=(spy,),
            system_prompt="",
            spent=Spent(path, limit),
            unit="patient",
        )
        return LocalLearner(private_model, data, Watcher())

    first = learner(0.0).train(task(private_model)).metrics["privacy/epsilon"]
    (charge,) = Spent(path).charges
    assert (charge.units, charge.steps, charge.unit, charge.rate) == (12, 2, "patient", 4 / 12 / 2)
    asked.clear()
    poor = learner(first * 1.01)
    asked.clear()
    with pytest.raises(PolicyError) as caught:
        poor.train(task(private_model, 2))
    assert caught.value.key == "policy.dp.max-epsilon"
    assert asked == []
    assert len(Spent(path).charges) == 1

    def broken(*_, **__):
        raise RuntimeError

    rich = learner(100.0)
    rich._model.trainer.train, kept = broken, rich._model.trainer.train
    try:
        with pytest.raises(RuntimeError):
            rich.train(task(private_model, 2))
    finally:
        rich._model.trainer.train = kept
    assert len(Spent(path).charges) == 2  # what was begun is charged


# --- settings ---------------------------------------------------------------------------------------------------------

REFUSED = {
    "grpo.loss-type": "dapo",
    "grpo.scale-rewards": "batch",
    "grpo.multi-objective-aggregation": "normalize_then_sum",
    "grpo.num-iterations": 2,
    "aggregation.weights": "effective-groups",
    "train.seconds-per-round": 10.0,
    "train.block-size": 4,
    "backend.loader": "unsloth",
}


@pytest.mark.parametrize("key", REFUSED)
def test_a_setting_that_breaks_the_guarantee_is_refused_by_name_and_allowed_without_noise(key):
    private = {"dp.noise-multiplier": 1.0, "grpo.loss-type": "grpo", "aggregation.weights": "examples"}
    other = {"train.steps-per-round": 2, key: REFUSED[key]}
    RunConfig().with_values(private)
    RunConfig().with_values(other)
    with pytest.raises(ConfigError, match=rf"^{key} is {REFUSED[key]} and dp.noise-multiplier is 1: "):
        RunConfig().with_values(private | other)


@pytest.mark.parametrize("noise", [-1.0, 0.1, 1e5, math.nan])
def test_noise_that_hides_nothing_is_refused(noise):
    with pytest.raises(ConfigError, match="dp.noise-multiplier"):
        RunConfig().with_values({"dp.noise-multiplier": noise})


def test_tools_are_refused(private_model, tmp_path):
    from fedgrpo.client.learner.tools import load_tools

    (tmp_path / "tools.py").write_text('def look(word: str) -> str:\n    """Look.\n\n    Args:\n        word: it."""\n')
    box = load_tools(str(tmp_path / "tools.py"), "", 2)
    with pytest.raises(ConfigError, match="ties units together"):
        replace_box(private_model.config, box)


def replace_box(config, box):
    from fedgrpo.client.learner.models.base_model import Base
    from fedgrpo.client.learner.models.process import prepare_process
    from fedgrpo.client.learner.training.local_learner import LoadedModel
    from fedgrpo.simulations.engine.simulated_clients import BUILTIN_POLICY

    LoadedModel(Base.load(BUILTIN_POLICY, "float32", prepare_process()), config, PROBLEMS[0], box=box)


def test_the_price_is_said_before_the_run(private_model):
    learner = make_learner(private_model)
    said = learner.price(Spent(None))
    assert "after 3 rounds" in said
    assert "2 of 24 prompts on average" in said
    size = private_model.schema.size_of(("B",))
    assert f"{math.sqrt(size) / 2:.2g} clip norms long" in said
    assert make_learner(make_model(make_config())).price(Spent(None)) == ""
    assert replace(private_model.config.dp, noise_multiplier=0.0).on is False
