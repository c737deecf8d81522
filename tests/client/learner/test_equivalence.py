"""One client over the whole data with one round is plain `GRPOTrainer`, through server, wire and client.

To 1e-6 with TRL's pass over whole sequences, to 1e-5 with each prompt computed once; in nine configurations of the
loss, the advantages and the schedule to 1e-4.
"""

import numpy as np
import pytest
import torch
from datasets import Dataset
from fedgrpo.client.learner.data.problems import reading_order
from fedgrpo.client.learner.models.adapted_model import adapter_schema, lora_config
from fedgrpo.client.learner.models.base_model import load_base, load_tokenizer
from fedgrpo.client.learner.rewards import load_rewards
from fedgrpo.client.main import app
from fedgrpo.common.adapter.adapter import Adapter
from fedgrpo.common.adapter.peft_files import read_peft
from fedgrpo.common.seeds import derived_seed
from fedgrpo.server.main import run_federation
from fedgrpo.simulations.engine.grid import LocalGrid, LocalWorker
from fedgrpo.simulations.engine.simulated_clients import BUILTIN_POLICY, divide
from learners import make_config
from trl import GRPOConfig, GRPOTrainer

STEPS = 6
CONFIGURATIONS = {
    "dapo, 2 iterations, accumulation 2": {
        "loss_type": "dapo",
        "num_iterations": 2,
        "gradient_accumulation_steps": 2,
        "per_device_train_batch_size": 4,
    },
    "bnpo, 3 iterations": {
        "loss_type": "bnpo",
        "num_iterations": 3,
        "gradient_accumulation_steps": 2,  # with one pass a step, bnpo is dapo
        "per_device_train_batch_size": 4,
    },
    "grpo, rewards not scaled, truncated completions masked": {
        "loss_type": "grpo",
        "scale_rewards": "none",
        "mask_truncated_completions": True,
        "max_completion_length": 24,
    },
    "dr_grpo, rewards scaled over the batch": {"loss_type": "dr_grpo", "scale_rewards": "batch"},
    "each reward normalised, then summed": {"multi_objective_aggregation": "normalize_then_sum"},
    "KL to the base model": {"beta": 0.1},
    "luspo, sequence level, cosine, warm-up": {
        "loss_type": "luspo",
        "importance_sampling_level": "sequence",
        "num_iterations": 2,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 2,
    },
    "cispo": {"loss_type": "cispo", "num_iterations": 2, "epsilon_high": 5.0},
    "off-policy mask": {"num_iterations": 3, "off_policy_mask_threshold": 0.02},
}
"""What is changed in TRL's configuration, under its own names."""


def settings(changes):
    """Return what the same configuration is called here: warm-up is a share, a KL term names its reference."""
    ours = {f"grpo.{name.replace('_', '-')}": value for name, value in changes.items() if name != "warmup_steps"}
    if "warmup_steps" in changes:
        ours["grpo.warmup-ratio"] = changes["warmup_steps"] / STEPS
    if changes.get("beta"):
        ours["grpo.kl-reference"] = "base"
    return ours


def plain_trl(config, changes):
    """TRL as its own documentation uses it: base model, LoRA config, rewards, dataset."""
    shards, _ = divide(config)
    seed = derived_seed(0, "train", "client-0", 1)
    order = reading_order(len(shards[0]), 0, config.prompts_per_round, seed=0, reader="client-0")
    base = load_base(BUILTIN_POLICY, "float32", torch.device("cpu"))
    schema = adapter_schema(base, config)
    rewards = load_rewards("gsm8k")
    trainer = GRPOTrainer(
        model=base,
        reward_funcs=list(rewards),
        args=GRPOConfig(
            **{
                "output_dir": "unused",
                "max_steps": STEPS,
                "num_generations": 4,
                "per_device_train_batch_size": 8,
                "max_completion_length": 44,
                "learning_rate": 4e-3,
                "lr_scheduler_type": "linear",
                "adam_beta2": 0.99,
                "seed": seed,
                "shuffle_dataset": False,
                "use_cpu": True,
                "bf16": False,
                "gradient_checkpointing": False,
                "report_to": "none",
                "save_strategy": "no",
                "disable_tqdm": True,
                **changes,
            }
        ),
        train_dataset=Dataset.from_list([shards[0][i].row("") for i in order]),
        processing_class=load_tokenizer(BUILTIN_POLICY),
        peft_config=lora_config(schema),
    )
    parameters = dict(trainer.model.named_parameters())
    start = Adapter.initial(schema)
    with torch.no_grad():
        for module in schema.modules:
            for factor, value in zip("AB", start.lora(module), strict=True):
                parameter = parameters[f"base_model.model.{module.name}.lora_{factor}.default.weight"]
                parameter.copy_(torch.from_numpy(value.copy()))
                parameter.requires_grad_(factor in schema.holds)
    trainer.train()
    trained = {
        (m.name, f): parameters[f"base_model.model.{m.name}.lora_{f}.default.weight"].detach().numpy()
        for m in schema.modules
        for f in schema.holds
    }
    return Adapter.from_parts(schema, trained)


def both(tmp_path, method, changes, *, shared_prompts=True):
    """Return the adapter after a round of a federation of one, and after plain TRL."""
    config = make_config(
        federation__rounds=1,
        federation__min_clients=1,
        federation__start_clients=1,
        train__steps_per_round=STEPS,
        grpo__lr_scheduler_type="linear",
        aggregation__method=method,
        simulation__clients=1,
        simulation__problems=30,
        evaluation__problems=4,
        evaluation__batch_size=4,
        output__dir=str(tmp_path),
        output__run="run",
    ).with_values({**settings(changes), "backend.shared-prompts": shared_prompts})
    grid = LocalGrid({2: LocalWorker(app, {2: {"partition-id": 0, "num-partitions": 1}}, config.flat())})
    run_federation(grid, config)
    grid.close()
    ours = read_peft(tmp_path / "run" / "adapters" / "0001")
    theirs = plain_trl(config, changes)
    assert np.linalg.norm(theirs.vector - Adapter.initial(ours.schema).vector) > 0.01
    return ours.vector, theirs.vector


@pytest.mark.parametrize("method", ["ffa", "naive"])
@pytest.mark.parametrize(("shared_prompts", "tolerance"), [(False, 1e-6), (True, 1e-5)])
def test_one_client_and_one_round_equal_plain_trl(tmp_path, method, shared_prompts, tolerance):
    ours, theirs = both(tmp_path, method, {}, shared_prompts=shared_prompts)
    np.testing.assert_allclose(ours, theirs, atol=tolerance)


@pytest.mark.e2e
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_each_configuration_equals_plain_trl(tmp_path, name):
    ours, theirs = both(tmp_path, "naive", CONFIGURATIONS[name])
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
