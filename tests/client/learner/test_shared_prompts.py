"""A pass with each prompt computed once gives the log-probabilities, entropies and gradients of whole sequences."""

import pytest
import torch
from fedgrpo.client.learner.models.base_model import load_base
from fedgrpo.client.learner.training.shared_prompts import logprobs_by_prompt, shared_prompts
from fedgrpo.simulations.engine.simulated_clients import BUILTIN_POLICY
from learners import make_config, make_model
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, GemmaConfig, MistralConfig, Qwen2Config
from trl.trainer.utils import add_fused_lm_head

PROMPTS, GROUP, P, T = 3, 4, 9, 6
SMALL = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
}
MODELS = {
    "qwen2": Qwen2Config(**SMALL),
    "gemma": GemmaConfig(**SMALL, head_dim=8),
    "mistral, every key kept": MistralConfig(**SMALL, sliding_window=None),
}


def with_adapter(base):
    """Return the model with a LoRA adapter that changes it, and TRL's fused output layer."""
    add_fused_lm_head(base, temperature=0.7, outputs=("log_probs", "entropy"))
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def batch(*, vocabulary=40):
    """Return ids and mask of shuffled groups: prompts padded on the left, completions of different lengths."""
    torch.manual_seed(0)
    prompt_mask = torch.ones(PROMPTS, P, dtype=torch.long)
    for i in range(PROMPTS):
        prompt_mask[i, : 2 * i] = 0
    prompts = torch.randint(3, vocabulary, (PROMPTS, P)) * prompt_mask
    completions = torch.randint(3, vocabulary, (PROMPTS * GROUP, T))
    mask = torch.ones_like(completions)
    for i in range(PROMPTS * GROUP):
        mask[i, 1 + i % T :] = 0
    ids = torch.cat([prompts.repeat_interleave(GROUP, 0), completions], dim=1)
    mask = torch.cat([prompt_mask.repeat_interleave(GROUP, 0), mask], dim=1)
    order = torch.randperm(PROMPTS * GROUP)[1:]  # groups need not be complete
    return ids[order], mask[order]


def whole(model, ids, mask):
    """TRL's pass."""
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :-T] = -100
    outputs = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True)
    return outputs.log_probs[:, -T:], outputs.entropy[:, -T:]


def gradient(model, logprobs):
    model.zero_grad()
    weights = torch.linspace(-1, 1, len(logprobs))[:, None]
    (weights * logprobs).sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("name", ["builtin", *MODELS])
def test_values_and_gradients_are_those_of_whole_sequences(name):
    torch.manual_seed(1)
    base = (
        load_base(BUILTIN_POLICY, "float32", torch.device("cpu"))
        if name == "builtin"
        else AutoModelForCausalLM.from_config(MODELS[name])
    )
    model = with_adapter(base).train()
    ids, mask = batch(vocabulary=base.config.vocab_size)
    expected, expected_entropy = whole(model, ids, mask)
    wanted = gradient(model, expected)
    logprobs, entropy = logprobs_by_prompt(model, ids, mask, T)
    torch.testing.assert_close(logprobs, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(entropy, expected_entropy, atol=1e-4, rtol=1e-4)
    assert wanted.norm() > 0.1
    assert (gradient(model, logprobs) - wanted).norm() < 1e-4 * wanted.norm()


def test_a_prompts_values_do_not_depend_on_the_padding_of_others():
    model = with_adapter(AutoModelForCausalLM.from_config(MODELS["qwen2"]))
    ids, mask = batch()
    shortest = mask[:, :P].sum(dim=1) == P - 2 * (PROMPTS - 1)
    together, _ = logprobs_by_prompt(model, ids, mask, T)
    start = 2 * (PROMPTS - 1)
    alone, _ = logprobs_by_prompt(model, ids[shortest, start:], mask[shortest, start:], T)
    torch.testing.assert_close(together[shortest], alone, atol=1e-6, rtol=1e-6)


def test_passes_of_a_few_completions_give_the_same():
    model = with_adapter(AutoModelForCausalLM.from_config(MODELS["qwen2"]))
    ids, mask = (each.repeat(2, 1) for each in batch())
    at_once, in_passes = (logprobs_by_prompt(model, ids, mask, T, size) for size in (None, 8))
    for one, other in zip(at_once, in_passes, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_images_and_experts_get_trls_own_pass(monkeypatch):
    trainer = make_model(make_config()).trainer.trainer
    ids, mask = batch(vocabulary=trainer.model.config.vocab_size)
    used = []
    monkeypatch.setattr("trl.GRPOTrainer._get_per_token_logps_and_entropies", lambda *_, **k: used.append(k) or [ids])
    trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, T, pixel_values=None, compute_aux_loss=False)
    assert not used
    for given in ({"pixel_values": torch.ones(2, 2)}, {"compute_aux_loss": True}):
        trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, T, **given)
    assert len(used) == 2


def test_prompts_that_differ_are_not_shared():
    ids = torch.arange(3, 3 + 2 * (P + T)).reshape(2, P + T)
    assert shared_prompts(ids, torch.ones_like(ids), T) is None


def test_prompts_that_differ_only_in_their_last_token_are_shared():
    ids = torch.full((2, P + T), 5)
    ids[1, P - 1 :] = 6
    shared = shared_prompts(ids, torch.ones_like(ids), T)
    assert shared.prompts_UP.shape == (1, P - 1)
    assert shared.prompt_of_N.tolist() == [0, 0]


def test_a_prompt_of_one_token_has_nothing_to_share():
    ids = torch.full((2, 1 + T), 5)
    assert shared_prompts(ids, torch.ones_like(ids), T) is None


def test_padding_is_not_taken_for_a_token():
    ids = torch.full((2, P + T), 5)
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    assert shared_prompts(ids, mask, T) is None


@pytest.mark.parametrize("why", ["a sliding window", "recomputed activations", "no adapter"])
def test_what_needs_whole_sequences_gets_them(why):
    base = AutoModelForCausalLM.from_config(
        MistralConfig(**SMALL, sliding_window=4) if why == "a sliding window" else MODELS["qwen2"]
    )
    model = base if why == "no adapter" else with_adapter(base)
    if why == "recomputed activations":
        base.gradient_checkpointing_enable()
    assert logprobs_by_prompt(model, *batch(), T) is None
