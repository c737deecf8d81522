"""The private names of TRL that `grpo_trainer.py` relies on. If one of these fails, read TRL's changes first."""

import inspect

import pytest

trl = pytest.importorskip("trl")


def test_the_names_we_set_and_override_exist():
    source = inspect.getsource(trl.GRPOTrainer)
    for name in (
        "self._step % generate_every == 0 or self._buffered_inputs is None",
        "self.reward_func_names",
        "self.reward_processing_classes",
        "self.reward_weights",
        "self.shuffle_dataset",
        'self._metrics[mode]["frac_reward_zero_std"]',
        'self._metrics[mode]["entropy"]',
        'self._metrics[mode]["kl"]',
        'self._metrics[mode]["completions/clipped_ratio"]',
        'adapter_name="ref" if "ref" in model.peft_config else None',
    ):
        assert name in source, name


def test_the_methods_we_override_are_called_by_trl_itself():
    source = inspect.getsource(trl.GRPOTrainer)
    for call in ("self._generate(prompts", "self._calculate_rewards(", "self._generate_and_score_completions("):
        assert call in source, call


def test_rewards_are_calculated_from_these_four_in_this_order():
    given = list(inspect.signature(trl.GRPOTrainer._calculate_rewards).parameters)
    assert given == ["self", "inputs", "prompts", "completions", "completion_ids_list"]
    assert "self._calculate_rewards(inputs, prompts, completions, completion_ids_list)" in inspect.getsource(
        trl.GRPOTrainer
    )
