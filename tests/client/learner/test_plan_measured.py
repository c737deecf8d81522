"""The plan's shapes and formulas against models of transformers, the learner's adapter, and tensors that are kept."""

import pytest
import torch
from fedgrpo.client.learner.models.adapted_model import adapter_schema
from fedgrpo.common.messages.messages import run_schema
from fedgrpo.common.settings.run_config import RunConfig
from fedgrpo.simulations.planning.calibrate import calibrate
from fedgrpo.simulations.planning.memory import memory_parts
from fedgrpo.simulations.planning.parts import Machine
from fedgrpo.simulations.planning.shapes import from_config, shape_of
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
}
FAMILIES = [
    ("qwen2", {"tie_word_embeddings": True}),
    ("qwen2", {"tie_word_embeddings": False}),
    ("qwen3", {"head_dim": 32}),
    ("qwen3", {"head_dim": 16, "attention_bias": True}),
    ("llama", {"head_dim": 16}),
    ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    ("mistral", {}),
]
LARGE = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
}
PROMPT, COMPLETION, BATCH = 24, 40, 4


def on_meta(family, **values):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **values))


@pytest.mark.parametrize(("family", "values"), FAMILIES)
def test_shapes_are_those_of_transformers(family, values):
    model = on_meta(family, **SMALL, **values)
    shape = from_config(model.config.to_dict(), "a test")
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    for targets in ("all-linear", "q_proj,down_proj"):
        config = RunConfig().with_values({"adapter.target-modules": targets})
        assert run_schema(config, shape.modules(targets)) == adapter_schema(model, config)


def test_a_large_model_has_as_many_parameters_as_transformers_builds():
    assert sum(p.numel() for p in on_meta("qwen2", **LARGE).parameters()) == 494_032_768
    assert shape_of("Qwen/Qwen2.5-0.5B").parameters == 494_032_768


@pytest.mark.parametrize("method", ["ffa", "naive"])
@pytest.mark.parametrize(("dtype", "autocast"), [("float32", False), ("bfloat16", True)])
@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_activations_are_the_tensors_that_a_forward_pass_keeps(family, dtype, autocast, method):
    values = {**SMALL, "head_dim": 16} if family != "qwen2" else SMALL
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **values)).to(getattr(torch, dtype))
    adapted = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in adapted.named_parameters():
        parameter.requires_grad_("lora_B" in name or ("lora_A" in name and method != "ffa"))
    config = RunConfig().with_values(
        {
            "model.dtype": dtype,
            "aggregation.method": method,
            "grpo.per-device-train-batch-size": BATCH,
            "grpo.num-generations": BATCH,
            "grpo.max-prompt-length": PROMPT,
            "grpo.max-completion-length": COMPLETION,
            "backend.gradient-checkpointing": "off",
            "backend.shared-prompts": False,
        }
    )
    parts = memory_parts(config, from_config(model.config.to_dict(), "a test"), Machine("cuda"))
    planned = next(part.bytes for part in parts if part.name == "activations")
    kept = kept_bytes(adapted, autocast=autocast)
    assert kept == pytest.approx(planned, rel=0.05)


def kept_bytes(model, *, autocast):
    """Bytes that a forward pass of the layers keeps for the backward one, but for parameters and casts of them."""
    tokens, storages = BATCH * (PROMPT + COMPLETION), {}
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters and tensor.numel() >= tokens:
            storages[storage.data_ptr()] = storage  # held, so that its place is not taken by another
        return tensor

    ids = torch.ones(BATCH, PROMPT + COMPLETION, dtype=torch.long)
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        model.base_model.model.model(input_ids=ids, attention_mask=mask, use_cache=False)
    return sum(storage.nbytes() for storage in storages.values()) - 4 * tokens * SMALL["hidden_size"]  # the last norm's


def test_a_calibration_times_steps_that_really_ran():
    values = {
        "grpo.num-generations": 4,
        "grpo.per-device-train-batch-size": 8,
        "grpo.max-completion-length": 12,
        "adapter.rank": 4,
        "simulation.problems": 64,
        "simulation.clients": 2,
        "train.seconds-per-round": 0.001,  # a scenario's: it would end the timed round after a step
    }
    found = calibrate(RunConfig().with_values(values))
    assert found.source.startswith("2 steps measured here, of 8 completions")
    assert 1 <= found.mean_length <= 12
    assert found.tokens_per_second > 1
    assert 0 < found.update_seconds < 60
