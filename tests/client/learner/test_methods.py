"""Every parameterisation in a real model: what goes in comes out, what trains is what should, the base stays whole."""

import numpy as np
import pytest
import torch
from fedgrpo.common.adapter.adapter import Adapter
from fedgrpo.common.adapter.methods import METHODS
from fedgrpo.common.adapter.peft_files import write_peft
from fedgrpo.common.adapter.schema import split
from fedgrpo.common.messages.messages import TrainTask
from fedgrpo.simulations.engine.simulated_clients import BUILTIN_POLICY
from learners import make_config, make_learner, make_model
from peft import PeftModel
from transformers import AutoModelForCausalLM

pytestmark = pytest.mark.e2e

IDS = torch.arange(20, 40).reshape(2, 10)


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def some_adapter(schema, seed=0):
    return Adapter.initial(schema).plus(np.random.default_rng(seed).normal(size=schema.size) / 20)


@pytest.mark.parametrize("method", METHODS)
def test_an_adapter_goes_in_and_out_and_its_peft_folder_is_the_same_model(tmp_path, method):
    model = make_model(make_config(aggregation__method=method))
    adapted = model.trainer.adapted
    adapter = some_adapter(model.schema)
    with adapted.base_only():
        before = logits(adapted.model)
    adapted.load(adapter)
    inside = logits(adapted.model)
    assert (inside - before).abs().max() > 1e-3
    assert (adapted.read().vector == adapter.vector).all()
    with adapted.base_only():
        assert (logits(adapted.model) == before).all()
    assert (logits(adapted.model) == inside).all()
    write_peft(adapter, tmp_path, "builtin")
    opened = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BUILTIN_POLICY), str(tmp_path)).eval()
    torch.testing.assert_close(logits(opened), inside, atol=2e-4, rtol=1e-4)
    base = adapted.release()
    assert (logits(base) == before).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_round_moves_the_factors_of_its_turn_and_no_others(method):
    config = make_config(aggregation__method=method, grpo__learning_rate=1e-2)
    model = make_model(config)
    learner = make_learner(model)
    for number in (1, 2):
        task = TrainTask(federation="f", round=number, attempt=1, adapter=some_adapter(model.schema), position=0)
        update = learner.train(task)
        turn = METHODS[method].trains_in(number)
        moved = {factor for (_, factor), part in split(model.schema, update.delta).items() if part.any()}
        assert moved == set(turn)
        assert (learner.train(task).delta == update.delta).all()


@pytest.mark.parametrize("method", ["ffa", "svd"])
def test_a_smaller_rank_is_the_same_adapter_without_its_last_components(method):
    config = make_config(aggregation__method=method, adapter__rank=4, adapter__alpha=8)
    large, small = make_model(config), make_model(config, rank=2)
    adapter = some_adapter(large.schema)
    cut = adapter.fitted(small.schema)
    large.trainer.adapted.load(cut.fitted(large.schema))
    small.trainer.adapted.load(cut)
    torch.testing.assert_close(logits(small.trainer.adapted.model), logits(large.trainer.adapted.model))


@pytest.mark.parametrize("passes", [2, 3])
def test_the_proximal_term_counts_once_in_a_step_of_several_passes(monkeypatch, passes):
    model = make_model(make_config(train__prox=3.0, grpo__gradient_accumulation_steps=passes))
    start, trainer = some_adapter(model.schema), model.trainer.trainer
    make_learner(model).train(TrainTask(federation="f", round=1, attempt=1, adapter=start, position=0))
    monkeypatch.setattr(type(trainer), "_policy_loss", lambda *_: torch.zeros(()))
    model.trainer.adapted.load(start.plus(np.full(model.schema.size, 0.5)))
    trainer.model.zero_grad()
    for _ in range(passes):
        trainer.compute_loss(trainer.model.train(), {}).backward()
    moved = [p for p in trainer.model.parameters() if p.grad is not None]
    assert sum(p.numel() for p in moved) == model.schema.size
    assert all(torch.allclose(p.grad, torch.tensor(1.5)) for p in moved)


def test_the_proximal_term_is_that_of_the_paper(monkeypatch):
    """FedProx: the loss rises by mu / 2 ||w - w_global||^2, its gradient by mu (w - w_global), for what trains."""
    model = make_model(make_config(train__prox=3.0))
    start, trainer = some_adapter(model.schema), model.trainer.trainer
    task = TrainTask(federation="f", round=1, attempt=1, adapter=start, position=0)
    with_term = make_learner(model).train(task).delta
    monkeypatch.setattr(type(trainer), "_policy_loss", lambda *_: torch.zeros(()))
    model.trainer.adapted.load(start.plus(np.full(model.schema.size, 0.5)))
    loss = trainer.compute_loss(trainer.model.train(), {})
    assert float(loss.detach()) == pytest.approx(3.0 / 2 * 0.25 * model.schema.size, rel=1e-4)
    trainer.model.zero_grad()
    loss.backward()
    moved = [p for p in trainer.model.parameters() if p.grad is not None]
    assert sum(p.numel() for p in moved) == model.schema.size
    assert all(torch.allclose(p.grad, torch.tensor(1.5)) for p in moved)
    assert float(trainer.compute_loss(trainer.model.eval(), {})) == 0
    monkeypatch.undo()
    without = make_learner(make_model(make_config())).train(task).delta
    assert (with_term != without).any()
