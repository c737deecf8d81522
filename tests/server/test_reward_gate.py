"""The reward gate: what it lets through, what it rolls back, and what happens to a run when it does."""

import json

import pytest
from federation import honest, play, settings
from fedgrpo.common.errors import ConfigError, RunError
from fedgrpo.common.messages import wire
from fedgrpo.common.messages.messages import Evaluation, Tally
from fedgrpo.common.settings.aggregation import Gate
from fedgrpo.common.settings.run_config import RunConfig
from fedgrpo.server.federation.reward_gate import objection
from fedgrpo.server.run.journal import Created, Journal, Planned, Void


def told(better, worse, compared=100, truncated=0):
    correct = max(better, 50)
    return Evaluation.of(
        Tally(problems=100, correct=correct, truncated=truncated, compared=compared, better=better, worse=worse)
    )


def of(**found):
    return dict(found)


BEFORE = {name: told(0, 0) for name in "abcde"}


def says(candidate, current=BEFORE, kls=(), hostile=0, **limits):
    return objection(candidate, current, kls, Gate(enabled=True, **limits), hostile)


def test_a_round_that_is_no_worse_passes_and_one_that_surely_is_does_not():
    assert says(of(a=told(9, 5), b=told(3, 6))) == ""
    assert says(of(a=told(5, 9), b=told(6, 8))) == ""  # worse, within the noise
    assert "would change by -10.0 points on 200 problems" in says(of(a=told(5, 15), b=told(5, 15)))
    assert says(of(a=told(5, 15), b=told(5, 15)), min_gain=-0.2) == ""
    assert "no client could compare" in says(of(a=told(0, 0, compared=0)))


def test_a_few_liars_neither_pass_a_bad_round_nor_void_a_good_one():
    bad = {"a": told(2, 20), "b": told(3, 19), "c": told(2, 21), "liar": told(90, 0)}
    assert says(bad) == ""
    assert "would change" in says(bad, hostile=1)
    good = {"a": told(20, 2), "b": told(19, 3), "c": told(21, 2), "liar": told(0, 90)}
    assert "would change" in says(good)
    assert says(good, hostile=1) == ""
    assert says({"a": told(9, 2)}, hostile=3) == ""  # one is always heard


def test_nobody_decides_by_claiming_many_problems():
    huge = Tally(problems=10**10, truncated=10**10, compared=10**10)
    claims = {**{name: told(3, 2) for name in "abcdefg"}, "liar": Evaluation.of(huge)}
    assert says(claims, {name: told(0, 0) for name in claims}, hostile=2) == ""
    drowned = {**{name: told(2, 20) for name in "abcdefg"}, "liar": Evaluation.of(huge)}
    assert "would change" in says(drowned, hostile=2)


def counts(problems, better, worse):
    return Evaluation.of(
        Tally(problems=problems, correct=max(better, problems // 2), compared=problems, better=better, worse=worse)
    )


@pytest.mark.parametrize("problems", [300, 10_000_000])
def test_of_two_clients_nobody_decides_by_claiming_more_problems_than_the_other_has(problems):
    worse, better = counts(300, 0, 150), counts(300, 150, 0)
    assert "would change" in says({"honest": worse, "large": counts(problems, problems // 100, 0)})
    assert says({"honest": better, "large": counts(problems, 0, problems // 100)}) == ""


def test_a_tiny_loss_on_a_huge_claim_is_not_significant_even_where_nobody_else_is_left_to_hear():
    found = {"a": counts(300, 30, 0), "b": counts(300, 0, 3), "large": counts(10_000_000, 0, 10)}
    assert says(found, hostile=1) == ""


def test_one_of_two_clients_cannot_have_a_round_rolled_back_by_its_kl():
    assert says(of(a=told(9, 5)), kls=(0.01, 1e6), max_kl=1.0) == ""
    assert "KL is 2" in says(of(a=told(9, 5)), kls=(2.0, 1e6), max_kl=1.0)
    assert "KL is 2" in says(of(a=told(9, 5)), kls=(2.0, -1e15), max_kl=1.0)


def test_truncation_and_kl_are_wires_of_their_own():
    runaway = of(a=told(9, 5, truncated=60), b=told(9, 5, truncated=50))
    assert "truncated" in says(runaway)
    assert says(runaway, max_truncation_rise=0.9) == ""
    assert "KL is 0.9" in says(of(a=told(9, 5)), kls=(0.1, 0.9, 3.0), max_kl=0.5)
    assert says(of(a=told(9, 5)), kls=(0.1, 0.2, 3.0), max_kl=0.5) == ""


def test_a_kl_limit_without_a_kl_is_refused():
    with pytest.raises(ConfigError, match=r"grpo\.beta is 0"):
        RunConfig().with_values({"gate.max-kl": 0.1})


def verdicts(better, worse, told=None):
    """Clients that give the gate these counts for each candidate, by attempt of the federation."""

    def behave(number, header, reply):
        if header["kind"] != "evaluate" or not header["against"]:
            return reply
        if told is not None and number == 0:
            told.append((header["round"], header["attempt"]))
        tallies = {"total": [10, 8, 9, 1, 100, 5, 0, 10, better(header), worse(header)]}
        return wire.pack({**{k: header[k] for k in ("federation", "round")}, "tallies": json.dumps(tallies)})

    return behave


def test_a_rolled_back_round_is_void_says_why_and_is_tried_on_other_prompts(tmp_path):
    positions = []

    def behave(number, header, reply):
        if header["kind"] == "train" and number == 0:
            positions.append((header["round"], header["attempt"], header["position"]))
        return verdicts(lambda h: 0, lambda h: 8 if h["attempt"] == 1 and h["round"] == 2 else 0)(number, header, reply)

    run = play(settings(tmp_path, gate__enabled=True), behave)
    (void,) = run.journal.of(Void)
    assert "reward gate objects: held-out accuracy would change by -80.0 points on 40 problems" in void.reason
    assert positions == [(1, 1, 0), (2, 1, 4), (2, 2, 8), (3, 1, 12)]
    assert len(run.rounds) == 3
    adapters = [line.adapter for line in run.journal.lines if isinstance(line, Created | Planned)]
    assert adapters[2] == adapters[3]  # both attempts at round 2 began from round 1's adapter


def test_the_gates_evaluation_is_the_rounds_and_nobody_answers_twice(tmp_path):
    told = []
    run = play(settings(tmp_path, gate__enabled=True), verdicts(lambda h: 3, lambda h: 1, told))
    assert told == [(1, 1), (2, 1), (3, 1)]
    assert [line.round for line in run.sampled] == [0, 1, 2, 3]


def test_a_gate_that_never_agrees_stops_the_run_and_keeps_what_was_committed(tmp_path):
    config = settings(tmp_path, gate__enabled=True, federation__max_void_rounds=2)
    with pytest.raises(RunError, match="void 2 times: the reward gate objects"):
        play(config, verdicts(lambda h: 0, lambda h: 9 if h["round"] == 2 else 0))
    assert list(Journal.read(tmp_path / "run" / "journal.jsonl").adapters) == [1]


def test_clients_that_have_forgotten_are_asked_about_the_current_adapter_first(tmp_path):
    asked = []

    def behave(number, header, reply):
        if header["kind"] == "evaluate" and number == 0:
            asked.append((header["round"], bool(header["against"]), header["attempt"]))
        if header["kind"] == "evaluate" and header["against"] and header["round"] == 2 and header["attempt"] == 1:
            tallies = {"total": [10, 8, 9, 1, 100, 5, 0, 0, 0, 0]}
            return wire.pack({**{k: header[k] for k in ("federation", "round")}, "tallies": json.dumps(tallies)})
        return honest(number, header, reply)

    run = play(settings(tmp_path, gate__enabled=True), behave)
    assert len(run.rounds) == 3
    assert (1, False, 2) in asked  # before the second attempt at round 2
