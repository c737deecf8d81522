"""The ledger and the blocks: what an operator may ask, and what no number of questions can tell about one prompt."""

from dataclasses import replace

import numpy as np
import pytest
from charges import charge
from federation import schema, settings
from fedgrpo.client.learner.data.problems import Problem, in_blocks, reading_order
from fedgrpo.client.learner.privacy.spent import Spent
from fedgrpo.client.learner.service.jobs import JobQueue
from fedgrpo.client.learner.service.ledger import Ledger
from fedgrpo.common.adapter.adapter import Adapter
from fedgrpo.common.errors import ConfigError, PolicyError
from fedgrpo.common.messages.frames import Frame
from fedgrpo.common.messages.messages import EvaluateTask, TrainTask
from masked_federation import Federation
from organisations import organisation_file

BLOCK = 8


@pytest.fixture
def config(tmp_path):
    return settings(tmp_path)


@pytest.fixture
def opened(tmp_path):
    """A function that opens the organisation's ledger, as each start of the learner does."""
    return lambda **policy: Ledger(tmp_path / "ledger.jsonl", organisation_file(tmp_path, **policy).policy)


def training(config, *, shift=0.0, **place):
    adapter = Adapter.initial(schema(config))
    adapter = Adapter(adapter.schema, adapter.vector + np.float32(shift))
    return TrainTask(adapter=adapter, **{"federation": "fed-1", "round": 1, "attempt": 1, "position": 0, **place})


def evaluation(config, *, shift=0.0, **place):
    task = training(config, shift=shift)
    values = {"federation": "fed-1", "round": 0, "temperature": 1.0, **place}
    return EvaluateTask(adapter=task.adapter, **values)


def train(ledger, task, config, prompts=4):
    ledger.begin_training(task, config)
    ledger.used(prompts)
    ledger.close()


def answer(ledger, task, config):
    ledger.begin_evaluation(task, config)
    ledger.close()


def refused(key, call, *args):
    with pytest.raises(PolicyError) as caught:
        call(*args)
    assert caught.value.key == f"ledger.{key}"


def test_an_attempt_at_a_round_is_answered_once_also_after_a_restart(opened, config):
    train(opened(), training(config), config)
    refused("answered", train, opened(), training(config), config)
    train(opened(), training(config, attempt=2), config)
    assert opened().counts() == {"train": 2}


def test_two_workers_that_serve_one_client_in_turn_see_what_the_other_wrote(opened, config):
    first, second = opened(), opened()
    train(first, training(config), config)
    refused("answered", train, second, training(config), config)
    context = Federation(3).context()
    second.agree(context, b"these survivors")
    first.open(context, b"these survivors")
    refused("survivors", second.agree, context, b"others")
    assert first.counts() == second.counts() == opened().counts()


def test_a_training_that_a_crash_cut_off_may_be_done_again_if_it_is_the_same(opened, config):
    opened().begin_training(training(config), config)
    refused("attempt", train, opened(), training(config, shift=0.1), config)
    refused("attempt", train, opened(), training(config, position=4), config)
    train(opened(), training(config), config)
    assert opened().counts() == {"train": 1}  # a repetition is not another one
    refused("answered", train, opened(), training(config), config)


def test_an_attempt_is_not_answered_for_another_position_adapter_or_other_settings(opened, config):
    ledger = opened()
    train(ledger, training(config), config)
    for changes in ({"position": 4}, {"shift": 1e-3}, {"counted_round": 0, "counted_attempt": 1}):
        refused("attempt", train, ledger, training(config, **changes), config)
    other = config.with_values({"grpo.learning-rate": 1e-3})
    refused("settings", train, ledger, training(config, round=2), other)
    assert opened().counts() == {"train": 1}


def test_a_shard_is_read_forwards_by_whole_rounds(opened, config):
    ledger = opened()
    train(ledger, training(config, position=4), config)
    for position in (0, 5, 7):
        refused("position", train, ledger, training(config, round=2, position=position), config)
    train(ledger, training(config, round=2, position=4), config)  # an update that did not count
    train(ledger, training(config, round=3, position=8), config)
    train(ledger, training(config, federation="fed-2", position=0), config)
    assert opened().counts() == {"train": 4}


def test_a_round_that_ran_out_of_time_is_continued_where_it_ended(opened, config):
    ledger = opened()
    train(ledger, training(config), config, prompts=2)
    train(ledger, training(config, round=2, position=2), config)
    refused("position", train, ledger, training(config, round=3, position=5), config)
    assert opened().counts() == {"train": 2}


def test_the_policy_limits_the_answers_of_all_runs_together(opened, config):
    for number in range(3):
        train(opened(policy__max_trainings=3), training(config, federation=f"fed-{number}"), config)
    refused("max-trainings", train, opened(policy__max_trainings=3), training(config, federation="fed-9"), config)
    answer(opened(policy__max_trainings=3), evaluation(config, federation="fed-9"), config)
    assert opened().counts() == {"train": 3, "evaluate": 1}


def test_an_evaluation_is_answered_once_for_each_decoding_and_role(opened, config):
    ledger = opened()
    known = "a" * 64
    for place in ({}, {"temperature": 0.0}, {"against": known}, {"attempt": 1}, {"round": 1}):
        answer(ledger, evaluation(config, **place), config)
    for place in ({}, {"temperature": 0.0}, {"against": known}, {"against": "b" * 64}):
        for number in range(20):
            refused("attempt", answer, ledger, evaluation(config, shift=1 + number, **place), config)
    answer(ledger, evaluation(config, round=4), config)
    refused("round", answer, ledger, evaluation(config, round=2), config)
    assert opened().counts() == {"evaluate": 6}


def test_a_damaged_ledger_is_not_overlooked(tmp_path, opened, config):
    train(opened(), training(config), config)
    file = tmp_path / "ledger.jsonl"
    file.write_bytes(b"{}\n" + file.read_bytes())
    with pytest.raises(ConfigError, match=r"ledger .* cannot be read.*Restore it from a backup"):
        opened()


def test_nothing_is_trained_that_cannot_be_written_down(tmp_path, config):
    ledger = Ledger(tmp_path / "missing" / "ledger.jsonl", organisation_file(tmp_path).policy)
    with pytest.raises(OSError, match="missing"):
        ledger.begin_training(training(config), config)


def test_a_line_is_closed_when_the_result_is_on_the_disk_and_before_anybody_has_it(tmp_path):
    seen = []
    cache = tmp_path / "cache"

    def kept():
        seen.append(([path.name for path in cache.glob("*.frame")], queue.current().ended))

    queue = JobQueue(lambda job: Frame({"done": 1}), cache, kept=kept)
    job = queue.submit(Frame({"kind": "train"}).pack())
    queue.wait(job.key, 10)
    assert seen == [([f"{job.key}.frame"], False)]


def shard(size=61):
    """Problems of different lengths, with a few repetitions."""
    questions = [f"question {k} {'x' * (k * 7 % 23)}" for k in range(size)]
    return [Problem(question, str(k)) for k, question in enumerate(questions)] + [Problem(questions[3], "again")]


def equations(problems, lengths):
    """Which prompts make each mean that an operator of many runs can ask for: booleans, one row for each mean."""
    generator = np.random.default_rng(0)
    number = {problems[k].question: k for k in reversed(range(len(problems)))}
    for _ in range(400):
        size = BLOCK * int(generator.integers(1, 3))  # train.block-size
        kept = in_blocks(problems, lengths, size, int(generator.integers(14, 40)))  # grpo.max-prompt-length
        if len(kept) < size:
            continue
        position = size * int(generator.integers(0, 40))
        count = BLOCK * int(generator.integers(1, 4))
        seed = int(generator.integers(1 << 32))
        order = reading_order(len(kept), position, count, seed=seed, reader="clinic", block=size)
        row = np.zeros(len(problems))
        np.add.at(row, [number[kept[i].question] for i in order], 1.0)
        yield row


def test_no_number_of_means_can_be_solved_for_less_than_a_block():
    problems = shard()
    lengths = [len(p.question) for p in problems]
    rows = np.array(list(equations(problems, lengths)))
    values = np.random.default_rng(1).normal(size=len(problems))
    solved, *_ = np.linalg.lstsq(rows, rows @ values, rcond=None)
    blocks = np.array([[problems.index(p) for p in in_blocks(problems, lengths, BLOCK, 1000)]]).reshape(-1, BLOCK)
    assert np.linalg.matrix_rank(rows) <= len(blocks)
    assert np.ptp(solved[blocks], axis=1).max() < 1e-9  # within a block every prompt looks the same
    assert np.ptp(values[blocks], axis=1).min() > 1  # though their values differ


def test_blocks_hold_different_prompts_and_do_not_depend_on_the_limit_or_the_order():
    problems = shard()
    lengths = [len(p.question) for p in problems]
    everything = in_blocks(problems, lengths, BLOCK, 1000)
    assert len(everything) == len({p.question for p in everything}) == 56
    shorter = in_blocks(problems, lengths, BLOCK, 20)
    assert 0 < len(shorter) < len(everything)
    assert shorter == everything[: len(shorter)]
    turned = in_blocks(problems[-2::-1], lengths[-2::-1], BLOCK, 1000)
    assert turned == everything
    assert in_blocks(problems, lengths, 1, 20) == [p for p in problems if len(p.question) <= 20]


def test_each_epoch_reads_every_block_once_and_blocks_of_one_are_the_old_order():
    order = reading_order(48, 0, 48, seed=3, reader="clinic", block=BLOCK)
    assert sorted(order) == list(range(48))
    assert all(order[k : k + BLOCK] == list(range(order[k], order[k] + BLOCK)) for k in range(0, 48, BLOCK))
    later = [reading_order(48, k, BLOCK, seed=3, reader="clinic", block=BLOCK) for k in range(0, 48, BLOCK)]
    assert [index for part in later for index in part] == order
    assert reading_order(48, 5, 9, seed=3, reader="clinic", block=1) == reading_order(48, 5, 9, seed=3, reader="clinic")


def test_a_federation_that_is_asked_for_with_a_changed_policy_keeps_its_ledger(tmp_path, config):
    path = tmp_path / "ledger.jsonl"
    own = organisation_file(tmp_path).policy
    train(Ledger(path, own), training(config), config)
    changed = Ledger(path, replace(own, max_rank=4))
    refused("answered", train, changed, training(config), config)
    assert changed.counts() == {"train": 1}


def test_a_private_training_after_one_without_noise_is_refused_until_the_folder_is_another(opened, tmp_path, config):
    noise = {"dp.noise-multiplier": 1.0, "grpo.loss-type": "grpo", "aggregation.weights": "uniform"}
    private = config.with_values(noise)
    train(opened(), training(config), config)
    with pytest.raises(PolicyError, match="1 trainings have been answered without noise, the last of fed-1"):
        opened(policy__max_epsilon=8.0).begin_training(training(private, federation="fed-2"), private)
    (tmp_path / "ledger.jsonl").unlink()
    ledger = opened(policy__max_epsilon=8.0)
    ledger.begin_training(training(private, federation="fed-2"), private)
    ledger.spent.charge(charge(federation="fed-2"), 1e-5)
    ledger.close()
    opened(policy__max_epsilon=8.0).begin_training(training(private, federation="fed-3"), private)
    assert len(Spent(tmp_path / "privacy.jsonl").charges) == 1  # beside the ledger
