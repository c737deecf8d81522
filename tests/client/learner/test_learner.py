"""The resident learner: one trainer, many clients and rounds, nothing carried over that should not be."""

import numpy as np
import pytest
import torch
from fedgrpo.client.learner.models.base_model import load_tokenizer
from fedgrpo.client.learner.rewards import Reward, load_rewards
from fedgrpo.client.learner.training.round_stats import differing_pairs, effective_groups, group_spreads
from fedgrpo.client.learner.training.watcher import Watcher
from fedgrpo.common.adapter.adapter import Adapter
from fedgrpo.common.adapter.peft_files import write_peft
from fedgrpo.common.errors import DataError, DivergedError, RewardError
from fedgrpo.common.messages.messages import EvaluateTask, TrainTask
from fedgrpo.common.messages.metric_names import TRAIN_METRICS, reward_metrics
from fedgrpo.simulations.engine.simulated_clients import BUILTIN_POLICY
from learners import PROBLEMS, make_config, make_learner, make_model
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer


def task(model, number=1, position=0, adapter=None):
    return TrainTask(
        federation="f", round=number, attempt=1, adapter=adapter or Adapter.initial(model.schema), position=position
    )


class StepCounter(Watcher):
    """Notes the steps it is told of."""

    def __init__(self):
        self.steps = []

    def step(self, number, reward):
        self.steps.append(number)


def same(one, other):
    return (one.delta == other.delta).all()


def test_an_update_has_exactly_the_agreed_metrics_and_moves_the_adapter(model):
    update = make_learner(model).train(task(model))
    names = reward_metrics(tuple(r.name for r in load_rewards("gsm8k")))
    assert set(update.metrics) == set(TRAIN_METRICS + names)
    assert all(type(value) is float and np.isfinite(value) for value in update.metrics.values())
    assert update.num_examples == 4
    assert np.linalg.norm(update.delta) > 0
    parts = sum(update.metrics[f"seconds/{phase}"] for phase in ("generate", "reward", "update"))
    assert parts == pytest.approx(update.metrics["seconds/total"], rel=1e-6)
    assert update.metrics["seconds/generate"] > 0
    total = sum(update.metrics[f"reward/{r.name}/mean"] * r.weight for r in load_rewards("gsm8k"))
    assert total == pytest.approx(update.metrics["reward/mean"], abs=1e-5)


def test_training_is_a_function_of_the_task_whoever_trained_before(model):
    first, second = make_learner(model, "client-0"), make_learner(model, "client-1", PROBLEMS[::-1])
    one = first.train(task(model))
    other = second.train(task(model))
    assert not same(one, other)
    again = first.train(task(model))
    assert same(one, again)
    assert one.metrics["reward/mean"] == again.metrics["reward/mean"]
    assert one.metrics["tokens/total"] == again.metrics["tokens/total"]


def test_rewards_are_told_which_completions_were_cut_off():
    seen = []

    def spy(completions, completion_ids, truncated, trainer_state, **_):
        if trainer_state is not None:  # it is in the trial
            seen.extend(zip(map(len, completion_ids), truncated, strict=True))
        return [0.0] * len(completions)

    model = make_model(make_config(grpo__max_completion_length=12))
    update = make_learner(model, rewards=(Reward("spy", 1.0, spy, "test"),)).train(task(model))
    assert {cut for length, cut in seen if length < 12} == {False}
    assert np.mean([cut for _, cut in seen]) == pytest.approx(update.metrics["completion/truncated-share"])
    assert 0 < sum(cut for _, cut in seen) < len(seen)


def test_another_round_samples_anew(model):
    learner = make_learner(model)
    assert not same(learner.train(task(model, 1)), learner.train(task(model, 2)))


def prompts_seen(model, position, shard):
    seen = []

    def listen(prompts, completions, **_):
        seen.extend(p[-1]["content"] for p in prompts)
        return [0.0] * len(completions)

    learner = make_learner(model, shard=shard, rewards=(Reward("listen", 1.0, listen, "test"),))
    seen.clear()  # the trial at construction
    learner.train(task(model, position=position))
    return list(dict.fromkeys(seen))


def test_prompts_are_used_without_repetition_until_the_shard_is_used_up(model):
    shard = PROBLEMS[:12]
    seen = [prompts_seen(model, position, shard) for position in (0, 4, 8, 12)]
    assert [len(s) for s in seen] == [4, 4, 4, 4]
    assert sorted(seen[0] + seen[1] + seen[2]) == sorted(p.question for p in shard)
    assert seen[3] != seen[0]
    assert prompts_seen(model, 4, shard) == seen[1]


def test_a_constant_reward_gives_no_signal_and_moves_nothing(model):
    flat = Reward("flat", 1.0, lambda completions, **_: [1.0] * len(completions), "test")
    update = make_learner(model, rewards=(flat,)).train(task(model))
    assert update.metrics["groups/zero-variance-share"] == 1.0
    assert update.metrics["groups/effective"] == 0.0
    assert not update.delta.any()


def test_a_reward_that_fails_in_mid_training_does_not_spoil_the_next_round(model):
    calls = []

    def sometimes(completions, **_):
        calls.append(1)
        if len(calls) == 3:
            raise KeyError("no such column")
        return [float(len(c[0]["content"])) for c in completions]

    learner = make_learner(model, rewards=(Reward("sometimes", 1.0, sometimes, "test"),))
    with pytest.raises(RewardError, match="The reward sometimes .* raised KeyError"):
        learner.train(task(model))
    calls.extend([1] * 10)
    after = learner.train(task(model))
    clean = Reward(
        "sometimes", 1.0, lambda completions, **_: [float(len(c[0]["content"])) for c in completions], "test"
    )
    assert same(after, make_learner(model, rewards=(clean,)).train(task(model)))


def test_none_leaves_a_completion_out(model):
    half = Reward("half", 1.0, lambda completions, **_: [None, 1.0] * (len(completions) // 2), "test")
    update = make_learner(model, rewards=(half, *load_rewards("correctness"))).train(task(model))
    assert update.metrics["reward/half/mean"] == pytest.approx(1.0)


def test_the_schedule_runs_over_the_federation_and_not_over_a_round():
    config = make_config(grpo__lr_scheduler_type="cosine", grpo__warmup_ratio=0.34)
    model = make_model(config)
    rates = []
    real = model.trainer.trainer.create_scheduler

    def listen(*args, **kwargs):
        scheduler = real(*args, **kwargs)
        rates.extend(4e-3 * scheduler.lr_lambdas[0](step) for step in range(config.train.steps_per_round))
        return scheduler

    model.trainer.trainer.create_scheduler = listen
    learner = make_learner(model)
    for number in (1, 2, 3):
        learner.train(task(model, number))
    warmup, total = 3, 6
    expected = [step / warmup for step in range(warmup)]
    expected += [0.5 * (1 + np.cos(np.pi * (s - warmup) / (total - warmup))) for s in range(warmup, total)]
    assert rates == pytest.approx([4e-3 * e for e in expected], abs=1e-9)


def test_prompts_that_are_too_long_are_left_out_and_counted(config):
    model = make_model(make_config(grpo__max_prompt_length=24))
    lengths = model.prompt_lengths(PROBLEMS, "")
    can = make_learner(model).capabilities()
    assert can.examples == sum(n <= 24 for n in lengths) > 0
    assert can.prompts_too_long == sum(n > 24 for n in lengths) > 0
    with pytest.raises(DataError, match="no prompt of at most grpo.max-prompt-length = 5 tokens"):
        make_learner(make_model(make_config(grpo__max_prompt_length=5)))


def noisy(model, scale):
    noise = np.random.default_rng(0).normal(size=model.schema.size).astype(np.float32)
    return Adapter.initial(model.schema).plus(scale * noise)


def test_evaluation_counts_against_the_base_model(model):
    learner = make_learner(model, held_out=PROBLEMS)
    start = Adapter.initial(model.schema)
    before = learner.evaluate(EvaluateTask(federation="f", round=0, adapter=start, temperature=1.0))
    assert before.total.problems == len(PROBLEMS)
    assert before.total.correct > 0
    assert before.total.gained == before.total.lost == 0
    after = learner.evaluate(EvaluateTask(federation="f", round=1, adapter=noisy(model, 3.0), temperature=1.0))
    assert after.total.lost > 0
    assert after.total.correct - before.total.correct == after.total.gained - after.total.lost
    assert sum(t.problems for name, t in after.classes.items() if name.startswith("style=")) == len(PROBLEMS)


def test_sampled_evaluation_draws_the_same_numbers_for_every_adapter_and_greedy_draws_none(model):
    heard = []

    class Listening(Watcher):
        def answers(self, task, problems, base, now):
            heard.append([answer.text for answer in now])

    learner = make_learner(model, held_out=PROBLEMS, watcher=Listening())
    for temperature in (1.0, 1.0, 0.0):
        task_now = EvaluateTask(federation="f", round=0, adapter=noisy(model, 0.3), temperature=temperature)
        learner.evaluate(task_now)
    assert heard[0] == heard[1] != heard[2]


@pytest.mark.parametrize("size", [1e30, 3e38])
def test_an_adapter_that_overflows_ends_in_a_named_failure_and_the_next_task_is_done(model, size):
    learner, honest = make_learner(model, held_out=PROBLEMS), make_learner(model).train(task(model))
    noise = np.random.default_rng(0).uniform(-1, 1, model.schema.size)
    broken = Adapter(model.schema, (size * noise).astype(np.float32))
    with pytest.raises(DivergedError, match="not finite"):
        learner.train(task(model, adapter=broken))
    for temperature in (0.0, 1.0):
        with pytest.raises(DivergedError, match="not finite"):
            learner.evaluate(EvaluateTask(federation="f", round=1, adapter=broken, temperature=temperature))
    assert same(learner.train(task(model)), honest)


def test_the_watcher_hears_of_steps(model):
    watcher = StepCounter()
    make_learner(model, watcher=watcher).train(task(model))
    assert watcher.steps == [1, 2]


@pytest.mark.parametrize("method", ["ffa", "naive"])
def test_an_exported_adapter_opens_in_peft_and_computes_the_same(tmp_path, method):
    model = make_model(make_config(aggregation__method=method))
    noise = np.random.default_rng(0).normal(size=model.schema.size).astype(np.float32)
    adapter = Adapter.initial(model.schema).plus(0.1 * noise)
    write_peft(adapter, tmp_path, "builtin")
    base = AutoModelForCausalLM.from_pretrained(BUILTIN_POLICY)
    ids = torch.arange(5, 45)[None]
    with torch.no_grad():
        plain = base(ids).logits
        opened = PeftModel.from_pretrained(base, tmp_path)(ids).logits
        model.trainer.adapted.load(adapter)
        ours = model.trainer.adapted.model.eval()(ids).logits
    assert (opened - ours).abs().max() < 1e-5
    assert (opened - plain).abs().max() > 0.1


def test_a_custom_tokenizer_is_not_replaced_without_a_word():
    ours = load_tokenizer(BUILTIN_POLICY)
    assert len(ours("17")["input_ids"]) == 1
    text = "<|user|>If 17 apples cost $34\n<reasoning>"
    assert ours.decode(ours(text)["input_ids"]) == text
    replaced = AutoTokenizer.from_pretrained(BUILTIN_POLICY)
    assert replaced.decode(replaced(text)["input_ids"]) != text or len(replaced("17")["input_ids"]) > 1


def test_completions_that_are_used_twice_do_not_reach_into_the_next_round():
    """Three steps with two passes over each batch leave half a batch of TRL's buffer unused."""
    model = make_model(make_config(grpo__num_iterations=2, train__steps_per_round=3))
    learner = make_learner(model)
    one = learner.train(task(model))
    assert one.num_examples == 4
    assert one.metrics["groups/effective"] + 4 * one.metrics["groups/zero-variance-share"] == pytest.approx(4)
    assert same(one, learner.train(task(model)))


@pytest.mark.parametrize(
    ("rewards", "weights", "how", "effective"),
    [
        ([[1.0], [1.0], [0.0], [1.0]], [1.0], "sum_then_normalize", [False, True]),
        ([[0.49], [0.49 + 1e-8], [0.7], [0.7]], [1.0], "sum_then_normalize", [False, False]),
        ([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 1.0]], [1.0, 1.0], "sum_then_normalize", [False, False]),
        ([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 1.0]], [1.0, 1.0], "normalize_then_sum", [True, False]),
        ([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [0.0, 0.0]], [1.0, 0.0], "sum_then_normalize", [False, False]),
        ([[float("nan")], [float("nan")], [float("nan")], [1.0]], [1.0], "sum_then_normalize", [False, False]),
        ([[float("nan"), 1.0], [2.0, 1.0], [1.0, 0.0], [1.0, 0.0]], [1.0, 1.0], "sum_then_normalize", [True, False]),
    ],
)
def test_a_group_is_effective_when_its_rewards_differ(rewards, weights, how, effective):
    settings = make_config(
        grpo__num_generations=2, grpo__per_device_train_batch_size=4, grpo__multi_objective_aggregation=how
    ).grpo
    found = effective_groups(torch.tensor(rewards), torch.tensor(weights), settings)
    assert found.tolist() == effective


def test_float_noise_of_large_rewards_is_no_signal_and_a_small_difference_is():
    settings = make_config(grpo__num_generations=2, grpo__per_device_train_batch_size=4).grpo
    rewards = torch.tensor([[3e5], [3e5 + 0.03], [0.5], [0.50001]])
    assert rewards[0] != rewards[1]
    assert effective_groups(rewards, torch.tensor([1.0]), settings).tolist() == [False, True]


def test_a_group_of_which_the_loss_has_no_completion_is_not_effective():
    values = {"grpo__num_generations": 2, "grpo__per_device_train_batch_size": 6}
    rewards, one = torch.tensor([[1.0], [0.0]] * 3), torch.tensor([1.0])
    cut_off = [True, True, True, False, False, False]
    masked = make_config(**values, grpo__mask_truncated_completions=True).grpo
    assert effective_groups(rewards, one, masked, cut_off).tolist() == [False, True, True]
    assert effective_groups(rewards, one, make_config(**values).grpo, cut_off).tolist() == [True, True, True]


def test_a_client_whose_completions_are_all_masked_has_no_effective_group_and_no_delta():
    config = make_config(grpo__mask_truncated_completions=True, grpo__max_completion_length=1)
    model = make_model(config)
    spread = Reward("spread", 1.0, lambda completions, **_: [k / 10 for k in range(len(completions))], "test")
    update = make_learner(model, rewards=(spread,)).train(task(model))
    assert update.metrics["completion/truncated-share"] == 1.0
    assert update.metrics["groups/effective"] == 0.0
    assert not update.delta.any()


def pairs(rewards, weights=(1.0,), **values):
    grpo = make_config(grpo__num_generations=4, grpo__per_device_train_batch_size=4, **values).grpo
    return differing_pairs(torch.tensor(rewards), torch.tensor(weights), grpo).tolist()


def test_the_signal_of_a_group_is_the_share_of_its_pairs_that_differ():
    nan = float("nan")
    assert pairs([[1.0], [0.0], [0.0], [0.0]]) == [0.5]
    assert pairs([[1.0], [0.0], [1.0], [0.0]]) == pytest.approx([4 / 6])
    assert pairs([[7.0]] * 4 + [[0.1], [0.2], [0.3], [0.4]]) == [0.0, 1.0]
    assert pairs([[1e6], [1e6 + 1e-2], [1e6], [1e6]]) == [0.0]  # float noise
    assert pairs([[nan], [1.0], [0.0], [nan]]) == [1.0]  # of those that were scored
    assert pairs([[nan]] * 4) == pairs([[nan]] * 3 + [[1.0]]) == [0.0]
    both = [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]
    assert pairs(both, (1.0, 1.0)) == [0.0]
    apart = {"grpo__multi_objective_aggregation": "normalize_then_sum"}
    assert pairs(both, (1.0, 1.0), **apart) == pytest.approx([4 / 6])


@pytest.mark.parametrize("right", range(9))
def test_the_signal_of_right_and_wrong_is_an_unbiased_estimate_of_twice_p_times_1_minus_p(right):
    rewards = torch.tensor([[1.0]] * right + [[0.0]] * (8 - right))
    signal = differing_pairs(rewards, torch.ones(1), make_config(grpo__num_generations=8).grpo).item()
    p = right / 8
    assert signal == pytest.approx(2 * p * (1 - p) * 8 / 7)
    assert (signal > 0) == effective_groups(rewards, torch.ones(1), make_config(grpo__num_generations=8).grpo).item()


def test_the_spread_within_groups_is_not_that_of_the_batch():
    settings = make_config(grpo__num_generations=2, grpo__per_device_train_batch_size=6).grpo
    nan = float("nan")
    rewards = torch.tensor([[0.0, 0.0], [1.0, 0.5], [10.0, 0.0], [10.0, 0.0], [nan, nan], [3.0, nan]])
    spreads = group_spreads(rewards, torch.tensor([1.0, 2.0]), settings)
    assert spreads.tolist() == pytest.approx([2.0 / 2**0.5, 0.0, 0.0])


@pytest.mark.parametrize("scale", ["group", "batch"])
def test_rewards_that_differ_by_float_noise_only_move_nothing(scale):
    """0.7 * 0.7 over a group of 10: its float standard deviation is not 0, and Adam would make it a full step."""
    model = make_model(
        make_config(grpo__num_generations=10, grpo__per_device_train_batch_size=20, grpo__scale_rewards=scale)
    )
    flat = Reward("flat", 0.7, lambda completions, **_: [0.7] * len(completions), "test")
    update = make_learner(model, rewards=(flat,)).train(task(model))
    assert update.metrics["groups/effective"] == 0.0
    assert not update.delta.any()


def test_a_group_of_float_noise_beside_one_with_signal_changes_nothing():
    """Equal to a first group whose rewards are 0, and so have no standard deviation at all."""

    def trained(flat):
        def half(completions, **_):
            return ([flat] * 10 + [float(i % 2) for i in range(10)])[: len(completions)]

        config = make_config(grpo__num_generations=10, grpo__per_device_train_batch_size=20, train__steps_per_round=1)
        model = make_model(config)
        update = make_learner(model, rewards=(Reward("half", 0.7, half, "test"),)).train(task(model))
        assert update.metrics["groups/effective"] == 1.0
        return update.delta

    delta = trained(0.7)
    assert delta.any()
    assert np.array_equal(delta, trained(0.0))


def test_a_reward_that_is_none_throughout_is_no_crash(model):
    nothing = Reward("nothing", 1.0, lambda completions, **_: [None] * len(completions), "test")
    update = make_learner(model, rewards=(nothing,)).train(task(model))
    assert update.metrics["groups/effective"] == 0.0
    assert update.metrics["reward/mean"] == 0.0
    assert not update.delta.any()


def test_accumulated_passes_are_one_step_of_more_prompts():
    model = make_model(make_config(grpo__gradient_accumulation_steps=2))
    watcher = StepCounter()
    update = make_learner(model, watcher=watcher).train(task(model))
    assert watcher.steps == [1, 2]
    assert update.num_examples == 8
    assert update.metrics["groups/effective"] <= 8
    assert update.metrics["groups/effective"] == pytest.approx(8 * (1 - update.metrics["groups/zero-variance-share"]))


def test_every_step_counts_in_the_metrics_also_where_completions_are_used_again():
    """With two passes over a batch and a KL from `global`, the first pass has KL 0 and the second has not."""
    values = {"grpo__num_iterations": 2, "grpo__beta": 0.1, "grpo__kl_reference": "global"}
    model = make_model(make_config(train__steps_per_round=2, **values))
    watcher = StepCounter()
    update = make_learner(model, watcher=watcher).train(task(model))
    assert watcher.steps == [1, 2]
    assert update.metrics["policy/kl"] > 1e-5
