"""`grpo.kl-reference` means what it says. TRL decides by how the model is handed over, and says nothing.

In a round of one step the policy of the reported KL is the round's global adapter itself: measured from `global` it is
0, measured from `base` it is as large as the adapter makes it. With more steps the policy moves away from `global`.
"""

import numpy as np
import pytest
from fedgrpo.client.learner.models.adapted_model import REFERENCE
from fedgrpo.common.adapter.adapter import Adapter
from fedgrpo.common.messages.messages import TrainTask
from learners import make_config, make_learner, make_model


def reported_kl(reference, beta, method="ffa", steps=1, noise_scale=0.5):
    config = make_config(
        grpo__kl_reference=reference, grpo__beta=beta, train__steps_per_round=steps, aggregation__method=method
    )
    model = make_model(config)
    learner = make_learner(model)
    kls = []
    for number in (1, 2):  # two rounds with different global adapters: a reference that is kept would show
        noise = np.random.default_rng(number).normal(size=model.schema.size).astype(np.float32)
        adapter = Adapter.initial(model.schema).plus(noise_scale * noise)
        task = TrainTask(federation="f", round=number, attempt=1, adapter=adapter, position=0)
        kls.append(learner.train(task).metrics["policy/kl"])
    return kls, model


@pytest.mark.parametrize("method", ["ffa", "naive"])
def test_base_measures_from_the_base_model(method):
    kls, model = reported_kl("base", 0.1, method)
    assert min(kls) > 1e-2
    assert REFERENCE not in model.trainer.adapted.model.peft_config


@pytest.mark.parametrize("method", ["ffa", "naive"])
def test_global_measures_from_the_adapter_that_the_round_began_with(method):
    kls, _ = reported_kl("global", 0.1, method)
    assert max(map(abs, kls)) < 1e-6
    later, _ = reported_kl("global", 0.1, method, steps=3, noise_scale=0.05)
    assert min(later) > 1e-5  # a reference that moved along with the policy would stay at 0


def test_none_loads_no_reference_and_reports_no_kl():
    kls, model = reported_kl("none", 0.0)
    assert kls == [0.0, 0.0]
    assert REFERENCE not in model.trainer.adapted.model.peft_config
    assert model.trainer.trainer.ref_model is None


@pytest.mark.parametrize("reference", ["base", "global"])
def test_frozen_factors_stay_frozen_though_the_reference_pass_thaws_them(reference):
    config = make_config(aggregation__method="ffa", grpo__kl_reference=reference, grpo__beta=0.1)
    model = make_model(config)
    start = Adapter.initial(model.schema)
    update = make_learner(model).train(TrainTask(federation="f", round=1, attempt=1, adapter=start, position=0))
    assert np.abs(update.delta).max() > 0
    now = dict(model.trainer.adapted.model.named_parameters())
    for module in model.schema.modules:
        name = f"base_model.model.{module.name}.lora_A.default.weight"
        assert not now[name].requires_grad
        assert (now[name].detach().numpy() == start.lora(module)[0]).all()
        assert now[name].grad is None
