"""The gradients of units against Opacus, which computes them in quite another way: all in one backward pass."""

import numpy as np
import pytest
import torch
from fedgrpo.client.learner.privacy.clipping import ClippedSum
from fedgrpo.client.learner.training.private_trainer import rows_of
from fedgrpo.common.adapter.adapter import Adapter
from learners import PROBLEMS, make_config, make_model
from opacus import GradSampleModule
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

UNITS, SIZE = (1, 3, 2), 4
"""Prompts of each unit, completions of each prompt."""
PROMPT, LENGTH = 12, 20


@pytest.fixture(scope="module")
def model():
    private = {"dp__noise_multiplier": 1.0, "aggregation__weights": "uniform", "aggregation__method": "naive"}
    return make_model(make_config(**private, grpo__loss_type="dr_grpo", grpo__max_completion_length=LENGTH))


def scored_batch():
    """A batch of random tokens and advantages, with completions of different lengths and padded prompts."""
    draw, rows = torch.Generator().manual_seed(3), sum(UNITS) * SIZE
    lengths = torch.randint(1, LENGTH + 1, (rows,), generator=draw)
    starts = torch.randint(0, PROMPT // 2, (rows,), generator=draw)
    return {
        "prompt_ids": torch.randint(5, 60, (rows, PROMPT), generator=draw),
        "prompt_mask": (torch.arange(PROMPT) >= starts[:, None]).long(),
        "completion_ids": torch.randint(5, 60, (rows, LENGTH), generator=draw),
        "completion_mask": (torch.arange(LENGTH) < lengths[:, None]).long(),
        "advantages": torch.randn(rows, generator=draw, dtype=torch.float64),
        "num_items_in_batch": lengths.sum(),
    }


def ours(model, batch):
    """Each unit's gradient, as it is before it is clipped."""
    trainer, found, start = model.trainer.trainer, [], 0
    trainer.begin_round([PROBLEMS[0].row("")], (), seed=0, first_step=0)
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()

    class Kept(ClippedSum):
        def add_unit(self):
            found.append(torch.cat([p.grad.flatten() for p in self._parameters]))
            super().add_unit()

    total = Kept(trainer.model.parameters(), 1.0)
    for prompts in UNITS:
        stop = start + prompts * SIZE
        trainer._add_unit(trainer.model, rows_of(batch, start, stop), total)
        start = stop
    return torch.stack(found)


def opacus(model, batch):
    """The same by Opacus, of the loss as the paper writes it (Dr. GRPO, arXiv:2503.20783): at the policy that sampled,
    the gradient of -A log p, over the longest length and the unit's completions."""
    wrapped = GradSampleModule(model.trainer.trainer.model, loss_reduction="sum", strict=False)
    try:
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        logits = wrapped(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, PROMPT - 1 : -1]
        logprobs = logits.log_softmax(-1).gather(-1, batch["completion_ids"][..., None])[..., 0]
        per_completion = -(batch["advantages"][:, None] * logprobs * batch["completion_mask"]).sum(1) / LENGTH
        per_completion.sum().backward()
        trained = [p for p in model.trainer.trainer.model.parameters() if p.requires_grad]
        per_row = torch.cat([p.grad_sample.flatten(1) for p in trained], dim=1)
    finally:
        wrapped.remove_hooks()
        for p in model.trainer.trainer.model.parameters():
            p.grad = p.grad_sample = None
    rows = [count * SIZE for count in UNITS]
    return torch.stack([part.mean(dim=0) for part in per_row.split(rows)])


def exact_norm(self, hidden_states):
    """Qwen2's RMSNorm without its detour through float32, whose rounding would be all the difference there is."""
    variance = hidden_states.pow(2).mean(-1, keepdim=True)
    return self.weight * hidden_states * torch.rsqrt(variance + self.variance_epsilon)


def test_the_gradient_of_each_unit_is_that_of_opacus(model, monkeypatch):
    monkeypatch.setattr(Qwen2RMSNorm, "forward", exact_norm)
    noise = np.random.default_rng(1).normal(size=model.schema.size).astype(np.float32)
    model.trainer.adapted.load(Adapter.initial(model.schema).plus(0.05 * noise))
    model.trainer.adapted.trains = ("A", "B")
    model.trainer.adapted.freeze()
    model.trainer.trainer.model.double()  # the two sum in another order, which float32 shows from 1e-5 on
    batch = scored_batch()
    one, other = ours(model, batch).double(), opacus(model, batch).double()
    assert one.shape == other.shape == (len(UNITS), model.schema.size)
    assert float(one.norm(dim=1).min()) > 1e-3
    assert float((one - other).abs().max()) < 1e-6
    assert float(((one - other).norm(dim=1) / other.norm(dim=1)).max()) < 5e-6  # attention's softmax is in float32
    mixed = other[[1, 2, 0]]  # a unit's own, and not another's
    assert float(((one - mixed).norm(dim=1) / other.norm(dim=1)).min()) > 0.1
