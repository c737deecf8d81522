"""Prompts by expected signal: what is drawn, what is remembered, and that only rounds that counted are."""

import json

import numpy as np
import pytest
from fedgrpo.client.learner.data.problems import Problem, reading_order
from fedgrpo.client.learner.data.shard_reader import (
    DISCOUNT,
    FLOOR,
    ShardReader,
    chances,
    draw,
    expected_signal,
    unit_of,
)
from fedgrpo.client.learner.data.signal_record import Played, SignalRecord
from fedgrpo.common.adapter.adapter import Adapter
from fedgrpo.common.adapter.schema import AdapterSchema, Module
from fedgrpo.common.errors import ConfigError
from fedgrpo.common.messages.messages import TrainTask
from fedgrpo.common.settings.run_config import RunConfig

SHARD = [Problem(f"question {i}", "0") for i in range(40)]
SIGNAL = RunConfig().with_values({"train.prompt-selection": "signal", "train.steps-per-round": 2})  # 8 prompts
SCHEMA = AdapterSchema(modules=(Module("m", 2, 2),), rank=1, alpha=1, holds=("B",), seed=0)
ADAPTER = Adapter.initial(SCHEMA)
BEYOND_ONE_IN_1000 = {2: 13.8, 4: 18.5}
"""Degrees of freedom -> the quantile of chi-square."""


def task(number=1, position=0, attempt=1):
    return TrainTask(federation="f", round=number, attempt=attempt, adapter=ADAPTER, position=position)


def reader(folder, shard=SHARD, block=1, config=SIGNAL, name="client-0"):
    return ShardReader(config, shard, name, block, SignalRecord(folder))


def play(own, number, position, signal, attempt=1):
    """Train a round in which each prompt shows `signal(problem)`, and return its prompts."""
    problems = own.next(task(number, position, attempt))
    own.note(task(number, position, attempt), problems, [signal(p) for p in problems])
    return problems


def odd(problem):
    """Return the signal of a world in which every other prompt has one."""
    return 0.5 if int(problem.question.split()[-1]) % 2 else 0.0


def chi_square(counts, expected):
    wanted = counts.sum() * expected
    return float(((counts - wanted) ** 2 / wanted).sum())


def one(units, number=1, position=0, end=1):
    return Played(round=number, attempt=1, position=position, end=end, units=units)


def test_first_draws_follow_their_chances_and_a_uniform_draw_would_be_found_out():
    expected = chances(np.array([0.5, 0.3, 0.1, 0.05, 0.05]))
    first = np.bincount([draw(expected, 2, seed=seed)[0] for seed in range(4000)], minlength=5)
    assert chi_square(first, expected) < BEYOND_ONE_IN_1000[4]
    assert chi_square(first, np.full(5, 0.2)) > 10 * BEYOND_ONE_IN_1000[4]


def test_second_draws_follow_the_chances_of_those_that_are_left():
    expected = np.array([0.6, 0.3, 0.1])
    second = np.bincount([draw(expected, 2, seed=seed)[1] for seed in range(4000)], minlength=3)
    of_second = [sum(expected[i] * expected[j] / (1 - expected[i]) for i in range(3) if i != j) for j in range(3)]
    assert chi_square(second, np.array(of_second)) < BEYOND_ONE_IN_1000[2]
    assert chi_square(second, expected) > 10 * BEYOND_ONE_IN_1000[2]


def test_every_unit_is_drawn_once_before_any_is_drawn_again():
    drawn = draw(chances(np.array([0.9, 0.05, 0.05])), 7, seed=3)
    assert sorted(drawn[:3]) == sorted(drawn[3:6]) == [0, 1, 2]


def test_a_unit_without_any_signal_keeps_its_share_of_the_floor():
    found = chances(np.array([0.0, 0.0, 0.0, 1.0]))
    assert found == pytest.approx([FLOOR / 4] * 3 + [1 - FLOOR + FLOOR / 4])


def test_the_expected_signal_is_the_mean_of_a_beta_distribution_whose_prior_is_what_is_usual():
    past = [one({"a": [0.5], "b": [0.0]})]
    usual = (0.5 / 3 + 0.5) / 2.5
    found = expected_signal(["a", "b", "new"], past, 1)
    assert found == pytest.approx([(0.5 * usual + 0.5) / 1.5, 0.5 * usual / 1.5, usual])
    assert expected_signal(["new"], [], 1) == pytest.approx([1 / 3])


def test_what_was_seen_long_ago_counts_less():
    usual = (0.5 / 3 + DISCOUNT**2 * 0.5) / (0.5 + DISCOUNT**2)
    found = expected_signal(["a"], [one({"a": [0.5]}, number=3)], 5)
    assert found == pytest.approx([(0.5 * usual + DISCOUNT**2 * 0.5) / (0.5 + DISCOUNT**2)])
    silent = [one({"a": [0.0], "b": [0.5]})]
    shares = [expected_signal(["a", "b"], silent, number) for number in (2, 6, 90)]
    assert [a / b for a, b in shares] == sorted(a / b for a, b in shares)
    assert shares[-1][0] == pytest.approx(shares[-1][1], rel=1e-3)


def test_prompts_with_signal_are_read_more_often_than_in_order(tmp_path):
    own, position, counts, late = reader(tmp_path), 0, [], set()
    for number in range(1, 31):
        problems = play(own, number, position, odd)
        position += len(problems)
        counts.append(np.mean([odd(p) > 0 for p in problems]))
        late |= {p.question for p in problems if number > 10 and not odd(p)}
    assert np.mean(counts[10:]) > 0.65
    assert np.mean([odd(p) > 0 for p in SHARD]) == 0.5
    assert len(late) > 10  # of the 20 without signal: none is given up


def test_a_round_that_is_asked_for_again_has_the_same_prompts(tmp_path):
    own = reader(tmp_path / "own")
    first = play(own, 1, 0, odd)
    again = reader(tmp_path / "own")
    second = again.next(task(2, 8))
    assert play(own, 2, 8, odd) == second
    assert reader(tmp_path / "own").next(task(2, 8)) == second  # its own line changes nothing
    assert reader(tmp_path / "own").next(task(1, 0)) == first
    assert reader(tmp_path / "own", name="client-1").next(task(1, 0)) != first


def test_only_rounds_that_counted_are_remembered(tmp_path):
    lost, never = reader(tmp_path / "lost"), reader(tmp_path / "never")
    for own in (lost, never):
        play(own, 1, 0, odd)
    play(lost, 2, 8, lambda problem: 1.0)  # the round was void: the server stands where it stood
    assert lost.next(task(2, 8, attempt=2)) == never.next(task(2, 8, attempt=2))
    for own in (lost, never):
        play(own, 2, 8, odd, attempt=2)
    assert lost.next(task(3, 16)) == never.next(task(3, 16))


def test_a_round_that_used_its_prompts_and_counted_nothing_is_remembered(tmp_path):
    own, other = reader(tmp_path / "own"), reader(tmp_path / "other")
    play(own, 1, 0, lambda problem: 0.0)
    play(other, 1, 0, lambda problem: float(problem.question == "question 3"))
    drawn = [{p.question for p in each.next(task(2, 8))} for each in (own, other)]
    first = {p.question for p in own.next(task(1, 0))}
    assert len(drawn[0] & first) <= 2


def test_a_run_that_was_taken_back_goes_on_as_if_it_had_not_been(tmp_path):
    own, short = reader(tmp_path / "own"), reader(tmp_path / "short")
    for number, position in ((1, 0), (2, 8), (3, 16), (4, 24)):
        play(own, number, position, odd)
    for number, position in ((1, 0), (2, 8)):
        play(short, number, position, odd)
    assert own.next(task(3, 16)) == short.next(task(3, 16))
    play(own, 3, 16, odd)
    play(short, 3, 16, odd)
    assert own.next(task(4, 24)) == short.next(task(4, 24))


def test_a_crash_in_the_middle_of_a_line_loses_that_line_alone(tmp_path):
    own = reader(tmp_path)
    play(own, 1, 0, odd)
    second = own.next(task(2, 8))
    path = tmp_path / "f.jsonl"
    path.write_bytes(path.read_bytes() + b'{"round": 2, "attem')
    assert reader(tmp_path).next(task(2, 8)) == second
    play(reader(tmp_path), 2, 8, odd)
    assert [json.loads(line)["round"] for line in path.read_text().splitlines()] == [1, 2]
    assert path.stat().st_mode & 0o077 == 0


def test_a_lost_record_is_said_and_all_prompts_count_as_new(tmp_path, caplog):
    caplog.set_level("WARNING", "fedgrpo.learner")
    assert len(reader(tmp_path).next(task(3, 16))) == 8
    assert "first 16 prompts have shown is lost" in caplog.text


def test_what_was_read_until_a_round_is_known_from_the_record(tmp_path):
    own, drawn = reader(tmp_path, block=2), []
    for number, position in ((1, 0), (2, 8), (3, 16)):
        drawn.append({SHARD.index(p) for p in play(own, number, position, odd)})
    play(own, 3, 16, odd, attempt=2)
    assert own.read_until("f", 16, 2) == drawn[0] | drawn[1]
    assert own.read_until("f", 0, 0) == set()
    in_order = reader(tmp_path, config=SIGNAL.with_values({"train.prompt-selection": "order"}))
    assert in_order.read_until("f", 24, 3) == set(reading_order(40, 0, 24, seed=0, reader="client-0"))
    (tmp_path / "f.jsonl").write_text("")
    with pytest.raises(ConfigError, match="lost up to prompt 16 of 16"):
        own.read_until("f", 16, 2)


def test_a_damaged_record_is_named(tmp_path):
    (tmp_path / "f.jsonl").write_text('{"round": 1}\n')
    with pytest.raises(ConfigError, match=r"f\.jsonl, cannot be read"):
        reader(tmp_path).next(task())


def test_blocks_are_drawn_whole_and_only_their_means_are_kept(tmp_path):
    own = reader(tmp_path, block=4)
    problems = own.next(task())
    starts = [SHARD.index(problems[0]), SHARD.index(problems[4])]
    assert all(start % 4 == 0 for start in starts)
    assert problems == [SHARD[start + offset] for start in starts for offset in range(4)]
    own.note(task(), problems, [0.0, 0.0, 0.4, 0.4, 1.0, 0.0, 0.0, 0.0])
    line = json.loads((tmp_path / "f.jsonl").read_text())
    assert line["units"] == {unit_of(problems[:4]): [pytest.approx(0.2)], unit_of(problems[4:]): [pytest.approx(0.25)]}


def test_a_round_that_ended_early_keeps_what_it_read(tmp_path):
    own = reader(tmp_path)
    problems = own.next(task())
    own.note(task(), problems, [0.5, 0.0, 0.5])
    line = json.loads((tmp_path / "f.jsonl").read_text())
    assert line["end"] == 3
    assert list(line["units"]) == [unit_of([p]) for p in problems[:3]]


def test_order_reads_as_ever_and_keeps_no_record(tmp_path):
    config = SIGNAL.with_values({"train.prompt-selection": "order"})
    own = reader(tmp_path, config=config)
    order = reading_order(40, 8, 8, seed=0, reader="client-0")
    assert play(own, 2, 8, odd) == [SHARD[i] for i in order]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"train.prompt-selection": "best"}, "train.prompt-selection is 'best'"),
        (
            {"train.prompt-selection": "signal", "dp.noise-multiplier": 1.0, "grpo.loss-type": "dr_grpo"}
            | {"aggregation.weights": "uniform"},
            "each unit with the same probability",
        ),
        ({"train.min-signal": 1.5}, "train.min-signal is 1.5"),
        (
            {"train.min-signal": 0.5, "dp.noise-multiplier": 1.0, "grpo.loss-type": "dr_grpo"}
            | {"aggregation.weights": "uniform"},
            "how many steps it leaves depends on the rewards",
        ),
    ],
)
def test_contradictions_are_refused_with_the_reason(values, says):
    with pytest.raises(ConfigError, match=says):
        RunConfig().with_values(values)
