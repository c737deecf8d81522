"""The real vLLM, on the built-in policy: `pytest -m vllm tests/with_vllm`, where it is installed (docs/backends.md).

One engine serves all tests of the process, so this folder is run by itself.
"""

import math

import numpy as np
import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]
pytest.importorskip(
    "vllm", reason="vLLM is not installed here; docs/backends.md says how to get an environment with it"
)

import torch  # noqa: E402
from fedgrpo.client.learner.data.problems import Problem  # noqa: E402
from fedgrpo.client.learner.models.base_model import Base  # noqa: E402
from fedgrpo.client.learner.models.process import prepare_process  # noqa: E402
from fedgrpo.client.learner.rewards import load_rewards  # noqa: E402
from fedgrpo.client.learner.samplers import Sampling  # noqa: E402
from fedgrpo.client.learner.samplers.own_model import OwnModelSampler  # noqa: E402
from fedgrpo.client.learner.training.evaluate import prompt_texts  # noqa: E402
from fedgrpo.client.learner.training.local_learner import ClientData, LoadedModel, LocalLearner  # noqa: E402
from fedgrpo.client.learner.training.watcher import Watcher  # noqa: E402
from fedgrpo.common.adapter.adapter import Adapter  # noqa: E402
from fedgrpo.common.messages.messages import TrainTask  # noqa: E402
from fedgrpo.common.settings.run_config import RunConfig  # noqa: E402
from fedgrpo.simulations.builtin import world  # noqa: E402
from fedgrpo.simulations.engine.simulated_clients import BUILTIN_POLICY  # noqa: E402

PROBLEMS: list[Problem] = [worked.problem() for worked in world.problems("train", 40, 0)]
SAMPLING = Sampling(max_tokens=40, temperature=1.0, seed=4)
SETTINGS = {
    "federation.rounds": 1,
    "grpo.max-completion-length": 44,
    "grpo.max-prompt-length": 128,
    "grpo.learning-rate": 4e-3,
    "train.steps-per-round": 3,
    "adapter.rank": 8,
}


@pytest.fixture(scope="module", params=["vllm", "vllm-server"])
def model(request):
    config = RunConfig().with_values({**SETTINGS, "backend.sampler": request.param})
    model = LoadedModel(Base.load(BUILTIN_POLICY, "float32", prepare_process("cpu")), config, PROBLEMS[0])
    yield model
    model.trainer.sampler.close()


@pytest.fixture
def prompts(model):
    return model.tokenizer(prompt_texts(model.tokenizer, PROBLEMS[:8], ""), add_special_tokens=False)["input_ids"]


def random_adapter(schema, seed):
    draw = np.random.default_rng(seed).normal(size=schema.size).astype(np.float32)
    return Adapter.initial(schema).plus(0.1 * draw)


@torch.no_grad()
def gap(model, prompts, groups):
    """Mean |log-probability by the trainer's model - by the sampler|, nats per token."""
    differences = []
    for ids, group in zip(prompts, groups, strict=True):
        for one in group:
            tokens = torch.tensor([ids + one.tokens])
            logits = model.trainer.adapted.model.eval()(input_ids=tokens).logits[0, len(ids) - 1 : -1]
            chosen = logits.log_softmax(-1).gather(-1, torch.tensor(one.tokens)[:, None])[:, 0]
            differences += (chosen - torch.tensor(one.logprobs)).abs().tolist()
    assert len(differences) > 50
    return sum(differences) / len(differences)


def test_every_adapter_that_is_loaded_is_the_one_that_samples(model, prompts):
    """A stale adapter, or a prefix computed with another one, would show in the log-probabilities."""
    for seed in range(3):
        model.trainer.adapted.load(random_adapter(model.schema, seed))
        assert gap(model, prompts, model.trainer.sampler.sample(prompts, SAMPLING, count=2)) < 1e-4


def test_without_loading_over_the_last_one_the_adapter_is_stale(model, prompts, monkeypatch):
    """What the test above would find: the same, with an engine that is not told to load in place."""
    if model.config.backend.sampler != "vllm":
        pytest.skip("a server is given each adapter under a name of its own")
    sampler = model.trainer.sampler
    model.trainer.adapted.load(random_adapter(model.schema, 10))
    assert gap(model, prompts, sampler.sample(prompts, SAMPLING)) < 1e-4
    add = sampler._llm.llm_engine.add_lora
    with monkeypatch.context() as patch:
        not_in_place = lambda request: add(type(request)(request.lora_name, request.lora_int_id, request.lora_path))  # noqa: E731
        patch.setattr(sampler._llm.llm_engine, "add_lora", not_in_place)
        model.trainer.adapted.load(random_adapter(model.schema, 11))
        assert gap(model, prompts, sampler.sample(prompts, SAMPLING)) > 0.01
    model.trainer.adapted.load(random_adapter(model.schema, 12))
    assert gap(model, prompts, sampler.sample(prompts, SAMPLING)) < 1e-4


def test_greedy_completions_are_those_of_the_model_itself_with_and_without_adapter(model, prompts):
    model.trainer.adapted.load(random_adapter(model.schema, 20))
    greedy = Sampling(max_tokens=40, temperature=0.0)
    own = OwnModelSampler(model.trainer.adapted, model.tokenizer)
    for base in (False, True):
        ours = [one.tokens for (one,) in own.sample(prompts, greedy, base=base)]
        theirs = model.trainer.sampler.sample(prompts, greedy, base=base)
        assert [one.tokens for (one,) in theirs] == ours
        assert all(one.ended for (one,) in theirs)


def test_a_group_has_different_completions_and_a_seed_repeats_them(model, prompts):
    model.trainer.adapted.load(random_adapter(model.schema, 30))
    sampler = model.trainer.sampler
    first = sampler.sample(prompts[:2], SAMPLING, count=8)
    assert all(len({tuple(one.tokens) for one in group}) > 2 for group in first)
    again = sampler.sample(prompts[:2], SAMPLING, count=8)
    assert [[one.tokens for one in group] for group in again] == [[one.tokens for one in group] for group in first]


def test_a_round_trains_with_hardly_a_gap_between_sampler_and_trainer(model):
    data = ClientData(
        organisation="a", shard=PROBLEMS, held_out=PROBLEMS[:4], rewards=load_rewards("gsm8k"), system_prompt=""
    )
    learner = LocalLearner(model, data, Watcher())
    start = Adapter.initial(model.schema)
    update = learner.train(TrainTask(federation="f", round=1, attempt=1, adapter=start, position=0))
    assert np.linalg.norm(update.delta) > 0.01
    assert 0 < update.metrics["policy/sampler-gap"] < 1e-4
    assert math.isfinite(update.metrics["policy/entropy"])
