"""Leaving out completions without an advantage changes neither loss nor gradient, for any GRPO loss."""

from dataclasses import replace

import pytest
import torch
from fedgrpo.client.learner.training.batches import take_as_old_policy, with_signal
from fedgrpo.client.learner.training.round_stats import RoundStats
from fedgrpo.common.adapter.adapter import Adapter
from fedgrpo.common.settings.grpo import LOSS_TYPES
from learners import PROBLEMS, make_config, make_model
from trl import GRPOTrainer

GRPO = make_config().grpo
SIZE, WIDTH, LENGTH = 8, 10, 12


@pytest.fixture(scope="module")
def trainer():
    model = make_model(make_config())
    start = Adapter.initial(model.schema)
    moved = start.plus(torch.randn(start.vector.size, generator=torch.Generator().manual_seed(1)).numpy() * 0.05)
    model.trainer.adapted.load(moved)
    trainer = model.trainer.trainer
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    return trainer


def batch(advantages, seed=0, tool_mask=False):
    """Completions of many lengths with padding, as TRL makes them; the first half is one group, the rest another."""
    draw = torch.Generator().manual_seed(seed)
    prompts = torch.randint(5, 60, (SIZE, WIDTH), generator=draw)
    completions = torch.randint(5, 60, (SIZE, LENGTH), generator=draw)
    widths, lengths = torch.tensor([10, 10, 10, 10, 7, 7, 7, 7]), torch.tensor([12, 12, 3, 5, 8, 2, 9, 1])
    prompt_mask = (torch.arange(WIDTH) >= WIDTH - widths[:, None]).long()
    completion_mask = (torch.arange(LENGTH) < lengths[:, None]).long()
    mask = completion_mask.clone()
    extra = {}
    if tool_mask:
        extra["tool_mask"] = torch.ones_like(completion_mask)
        extra["tool_mask"][4:, 1] = 0
        mask *= extra["tool_mask"]
    return {
        "prompt_ids": prompts,
        "prompt_mask": prompt_mask,
        "completion_ids": completions,
        "completion_mask": completion_mask,
        "advantages": torch.tensor(advantages),
        "num_items_in_batch": mask.sum(),
        "old_per_token_logps": torch.rand(SIZE, LENGTH, generator=draw) - 0.5,
        **extra,
    }


@torch.no_grad()
def own_logps(trainer, inputs):
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    return trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, LENGTH)[0]


def loss_and_gradients(trainer, compute):
    trainer.model.zero_grad()
    loss = compute()
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in trainer.model.parameters() if p.requires_grad]


SOME = [0.0, 0.0, 0.0, 0.0, 1.5, -0.5, -0.5, -0.5]


@pytest.mark.parametrize("tool_mask", [False, True])
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_loss_and_gradient_are_those_of_the_whole_batch(trainer, monkeypatch, loss_type, level, tool_mask):
    high = 5.0 if loss_type == "cispo" else GRPO.epsilon_high  # the ratio itself, not its distance from 1
    settings = replace(GRPO, loss_type=loss_type, importance_sampling_level=level, epsilon_high=high)
    monkeypatch.setattr(trainer, "epsilon_high", high)
    monkeypatch.setattr(trainer, "loss_type", loss_type)
    monkeypatch.setattr(trainer, "importance_sampling_level", level)
    monkeypatch.setattr(trainer, "run_config", replace(trainer.run_config, grpo=settings))
    inputs = batch(SOME, tool_mask=tool_mask)
    inputs["old_per_token_logps"] = own_logps(trainer, inputs) + 0.3 * inputs["old_per_token_logps"]
    whole, wanted = loss_and_gradients(trainer, lambda: GRPOTrainer.compute_loss(trainer, trainer.model, dict(inputs)))
    ours, found = loss_and_gradients(trainer, lambda: trainer.compute_loss(trainer.model, dict(inputs)))
    assert max(float(g.abs().max()) for g in wanted) > 1e-4  # there is something to compare
    torch.testing.assert_close(ours, whole, rtol=1e-4, atol=1e-6)
    off = torch.cat([(one - other).flatten() for one, other in zip(found, wanted, strict=True)])
    assert float(off.norm()) < 2e-4 * float(torch.cat([g.flatten() for g in wanted]).norm())


def test_only_what_has_an_advantage_is_passed_on_and_padding_of_the_others_goes():
    part, share = with_signal(batch(SOME), replace(GRPO, loss_type="grpo"))
    assert part["completion_ids"].shape == (4, 9)
    assert part["prompt_ids"].shape == (4, 7)
    assert part["old_per_token_logps"].shape == (4, 9)
    assert share == 0.5


def test_a_completion_that_is_masked_altogether_is_left_out():
    inputs = batch([1.0, 0.0, 0.0, 0.0, 1.5, -0.5, -0.5, -0.5])
    inputs["completion_mask"][0] = 0
    part, _ = with_signal(inputs, GRPO)
    assert len(part["advantages"]) == 4


def test_without_any_advantage_the_gradient_is_zero_and_there(trainer):
    part, share = with_signal(batch([0.0] * SIZE), GRPO)
    assert (part, share) == (None, 0.0)
    loss, gradients = loss_and_gradients(trainer, lambda: trainer.compute_loss(trainer.model, batch([0.0] * SIZE)))
    assert float(loss) == 0
    assert gradients
    assert all((g == 0).all() for g in gradients)


def test_with_a_kl_term_every_completion_counts():
    inputs = batch(SOME)
    part, share = with_signal(inputs, replace(GRPO, beta=0.1, kl_reference="base"))
    assert part is inputs
    assert share == 1


def test_the_sampler_is_the_old_policy_and_what_it_could_not_tell_is_left_out():
    inputs = batch(SOME)
    inputs["sampling_per_token_logps"] = torch.full((SIZE, LENGTH), -1.0)
    inputs["sampling_per_token_logps"][4, 2] = float("nan")
    take_as_old_policy(inputs)
    assert inputs["tool_mask"].sum() == SIZE * LENGTH - 1
    assert inputs["tool_mask"][4, 2] == 0
    assert not inputs["old_per_token_logps"].isnan().any()
    assert (inputs["old_per_token_logps"][0] == -1).all()


def test_a_batch_from_the_model_itself_keeps_its_old_policy():
    inputs = batch(SOME)
    before = dict(inputs)
    take_as_old_policy(inputs)
    assert inputs == before or all(inputs[name] is before[name] for name in before)


def test_float_noise_in_rewards_is_no_advantage(model):
    """TRL divides by a standard deviation of float noise; Adam would make a step of full size of that."""
    trainer = model.trainer.trainer
    rows = [problem.row("") for problem in PROBLEMS[:2] for _ in range(4)]
    noisy = [0.1 + 0.2, 0.3, 0.3, 0.3] * 2
    trainer.reward_funcs = [lambda completions, **_: noisy]
    trainer.reward_func_names, trainer.reward_weights = ["noise"], torch.ones(1)
    trainer.reward_processing_classes = [None]
    model.trainer.adapted.load(Adapter.initial(model.schema))
    trainer.model.train()
    trainer.round_stats = RoundStats()
    assert (trainer._generate_and_score_completions(rows)["advantages"] == 0).all()
