"""The server's round loop over the in-process grid, with real messages and clients of every kind."""

import time

import numpy as np
import pytest
import safetensors.numpy
from federation import fail, garbage, metrics, misbehave_in, play, schema, settings
from fedgrpo.common.adapter.compression import rounded
from fedgrpo.common.adapter.methods import METHODS
from fedgrpo.common.adapter.peft_files import read_peft
from fedgrpo.common.errors import ConfigError, RunError
from fedgrpo.common.messages import wire
from fedgrpo.server import main as main_module
from fedgrpo.server.main import Stopped
from fedgrpo.server.operator.journal_lines import journal_line
from fedgrpo.server.run.journal import Committed, Created, Finished, Planned, Resumed, Withheld
from fedgrpo.server.run.reader import Run
from fedgrpo.simulations.report.summary import falls
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict


def test_a_federation_plays_its_rounds_and_leaves_a_readable_run(tmp_path):
    run = play(settings(tmp_path))
    assert [line.round for line in run.rounds] == [1, 2, 3]
    assert [e.round for e in run.sampled] == [0, 1, 2, 3]
    assert [e.round for e in run.greedy] == [0, 3]
    result = run.result()
    assert result["accuracy"]["before"] == 0.2
    assert result["accuracy"]["after"] == 0.5
    assert result["accuracy"]["by_class"]["steps=1"]["problems_after"] == 40
    assert result["finished"]
    assert result["bytes_up"] > 3 * 4 * 4 * 18
    assert run.rounds[0].clients["client-2"].share == 0.25
    assert [type(line) for line in run.journal.lines] == [Created, *[Planned, Committed] * 3, Finished]


def test_the_same_seed_gives_the_same_adapter_and_another_seed_another(tmp_path):
    one, same = play(settings(tmp_path / "a")), play(settings(tmp_path / "b"))
    other = play(settings(tmp_path / "c", federation__seed=1))
    assert one.result()["adapter_sha256"] == same.result()["adapter_sha256"] != other.result()["adapter_sha256"]


@pytest.mark.parametrize(("how", "code"), [(fail, "client-raised"), (garbage, "array-type")])
def test_a_bad_client_costs_its_reply_and_not_the_run(tmp_path, how, code):
    run = play(settings(tmp_path), misbehave_in("train", {1}, how))
    assert len(run.rounds) == 3
    assert run.rounds[0].refused == {"client-1": code}
    assert sorted(run.rounds[0].clients) == ["client-0", "client-2", "client-3"]
    assert "PRIVATE-PROMPT" not in (run.folder / "metrics.jsonl").read_text()


def test_a_client_that_keeps_sending_garbage_sits_out(tmp_path):
    run = play(settings(tmp_path, federation__rounds=4, federation__max_strikes=2), misbehave_in("train", {1}, garbage))
    assert [line.refused for line in run.rounds] == [{"client-1": "array-type"}] * 2 + [{}] * 2
    assert all(len(line.clients) == 3 for line in run.rounds)


def test_a_late_client_is_left_behind_at_the_deadline(tmp_path):
    def sleep(number, header, reply):
        time.sleep(2.5)
        return reply

    start = time.monotonic()
    config = settings(tmp_path, federation__rounds=1, federation__round_timeout_s=1.0, evaluation__every=0)
    run = play(config, misbehave_in("train", {3}, sleep))
    assert run.rounds[0].refused == {"client-3": "late"}
    assert time.monotonic() - start < 6


def test_the_sender_is_told_why_its_reply_was_refused(tmp_path):
    told = []

    def listen(number, header, reply):
        told.append((header["round"], header["last-refusal"]))
        return garbage(number, header, reply) if header["round"] == 1 else reply

    play(settings(tmp_path), misbehave_in("train", {0}, listen))
    assert told == [(1, ""), (2, "array-type"), (3, "")]


def test_below_quorum_the_round_is_void_and_tried_again(tmp_path):
    attempts = []

    def fail_twice(number, header, reply):
        if number == 0:
            attempts.append(header["attempt"])
        return fail(number, header, reply) if header["attempt"] < 3 else reply

    run = play(settings(tmp_path), misbehave_in("train", {0, 1, 2}, fail_twice, round_number=2))
    assert attempts == [1, 2, 3]
    assert [line.attempt for line in run.rounds] == [1, 3, 1]
    assert run.result()["void_rounds"] == 2
    assert run.result()["adapter_sha256"] == play(settings(tmp_path / "clean")).result()["adapter_sha256"]


def test_too_many_void_rounds_end_the_run_and_keep_what_was_committed(tmp_path):
    config = settings(tmp_path)
    behave = misbehave_in("train", {0, 1, 2, 3}, fail, round_number=3)
    with pytest.raises(
        RunError, match=r"Round 3 was void 3 times: only 0 of 4 updates were valid \(quorum 2\).*2 committed"
    ):
        play(config, behave)
    resumed = play(config)
    assert resumed.result()["adapter_sha256"] == play(settings(tmp_path / "clean")).result()["adapter_sha256"]
    assert resumed.rounds[-1].attempt == 4


def test_a_cohort_is_drawn_when_fewer_are_wanted_and_positions_follow_who_trained(tmp_path):
    run = play(settings(tmp_path, federation__clients_per_round=2, federation__rounds=6))
    cohorts = [line.cohort for line in run.journal.of(Planned)]
    assert {len(cohort) for cohort in cohorts} == {2}
    assert len(set(cohorts)) > 1
    last = run.journal.of(Committed)[-1]
    assert last.positions == {
        name: 4 * sum(name in c for c in cohorts) for name in sorted({n for c in cohorts for n in c})
    }


def test_evaluation_asks_everybody_though_training_draws_a_cohort(tmp_path):
    run = play(settings(tmp_path, federation__clients_per_round=2))
    assert [e.total.problems for e in run.sampled] == [40] * 4


def test_an_evaluation_says_who_was_missing_and_compares_the_same_problems(tmp_path):
    run = play(settings(tmp_path), misbehave_in("evaluate", {1, 2, 3}, fail, round_number=3))
    result = run.result()
    assert result["accuracy"]["problems"] == 10
    assert result["accuracy"]["clients"] == ["client-0"]
    assert result["accuracy"]["before"] == pytest.approx(0.2)


def test_a_federation_whose_policies_keep_all_counts_says_so_and_trains_on(tmp_path):
    def keep(number, header, reply):
        return wire.pack({"error": "policy.evaluation.problems"})

    run = play(settings(tmp_path), misbehave_in("evaluate", {0, 1, 2, 3}, keep))
    lines = run.journal.of(Withheld)
    assert [(line.round, line.decoding) for line in lines][:2] == [(0, "greedy"), (0, "sampled")]
    assert lines[0].codes == {f"client-{k}": "policy.evaluation.problems" for k in range(4)}
    assert journal_line(lines[0], {}, {}).startswith(
        "before round 1: no greedy accuracy, since no organisation's counts"
    )
    assert len(run.rounds) == 3


def test_a_draw_smaller_than_min_clients_is_no_void_round(tmp_path):
    config = settings(tmp_path, federation__clients_per_round=2, federation__min_clients=3)
    assert play(config).result()["void_rounds"] == 0


@pytest.mark.parametrize("stop_after", [1, 3, 6, 9, 12, 15])
def test_a_run_that_was_stopped_anywhere_goes_on_and_ends_as_if_it_never_was(tmp_path, stop_after, monkeypatch):
    """`stop_after` counts looks at the stop flag: the run ends while joining, training or evaluating."""
    config, looks, real = settings(tmp_path), [], main_module._Stop.check

    def stop_at_last(self):
        looks.append(1)
        if len(looks) == stop_after:
            self.set()
        real(self)

    def slow(number, header, reply):
        time.sleep(0.03)
        return reply

    monkeypatch.setattr(main_module._Stop, "check", stop_at_last)
    with pytest.raises(Stopped):
        play(config, slow)
    monkeypatch.undo()
    resumed = play(config)
    clean = play(settings(tmp_path / "clean"))
    assert resumed.result()["adapter_sha256"] == clean.result()["adapter_sha256"]
    assert [e.round for e in resumed.sampled] == [0, 1, 2, 3]
    assert [line.round for line in resumed.rounds] == [1, 2, 3]


def test_other_settings_cannot_resume_a_run(tmp_path):
    play(settings(tmp_path, federation__rounds=1))
    with pytest.raises(ConfigError, match="was made with other settings"):
        play(settings(tmp_path, federation__rounds=2))


def test_a_message_can_carry_anything_and_the_server_stays_up(tmp_path):
    """Each round another client sends something absurd; each costs its reply only."""

    def absurd(number, header, reply):
        options = [
            RecordDict(),
            RecordDict({"header": ConfigRecord({"protocol": wire.PROTOCOL - 1})}),
            RecordDict({"header": ConfigRecord({"protocol": "1", "error": "x" * 5000})}),
            RecordDict({"vector": ArrayRecord({"vector": Array(np.zeros(18, np.float32))})}),
        ]
        return options[int(header["round"]) % len(options)]

    config = settings(tmp_path, federation__rounds=4, federation__max_strikes=9)
    run = play(config, misbehave_in("train", {2}, absurd))
    assert len(run.rounds) == 4
    assert all(list(line.refused) == ["client-2"] for line in run.rounds)


def test_a_run_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is not a run folder"):
        Run.read(tmp_path)


def test_a_client_that_reports_its_own_failure_is_asked_again_and_told_nothing(tmp_path):
    told = []

    def report(number, header, reply):
        told.append(header["last-refusal"])
        return wire.pack({"error": "reward"})

    run = play(settings(tmp_path, federation__max_strikes=1), misbehave_in("train", {1}, report))
    assert [line.refused for line in run.rounds] == [{"client-1": "reward"}] * 3
    assert told == ["", "", ""]


def test_a_round_that_most_got_wrong_is_held_against_nobody(tmp_path):
    """Three wrong replies of four make the round void: the run is wrong, and can go on once it is mended."""
    behave = misbehave_in("train", {0, 1, 2}, garbage)
    config = settings(tmp_path, federation__max_strikes=1)
    with pytest.raises(RunError, match="Round 1 was void"):
        play(config, behave)
    assert len(play(config).rounds) == 3


def test_every_round_says_what_each_client_weighed_taught_and_cost(tmp_path):
    run = play(settings(tmp_path, aggregation__method="ffa", compression__up="int8"))
    for line in run.rounds:
        assert line.aggregation_error < 1e-6
        assert sum(client.share for client in line.clients.values()) == pytest.approx(1)
        for way in ("bytes_up", "bytes_down"):
            assert getattr(line, way) == sum(getattr(client, way) for client in line.clients.values()) > 0
    (first, *_) = run.contributions()
    assert (first.organisation, first.rounds, first.informative) == ("client-0", 3, pytest.approx(0.75))
    assert run.result()["ledger"][0]["bytes_up"] == first.bytes_up


@pytest.mark.parametrize("method", METHODS)
def test_every_method_plays_its_rounds_and_sends_what_it_trains(tmp_path, method):
    sizes = set()

    def behave(number, header, reply):
        if header["kind"] == "train":
            sizes.add(reply["vector"]["vector"].shape[0])
        return reply

    config = settings(tmp_path, aggregation__method=method, evaluation__every=0)
    run = play(config, behave)
    assert len(run.rounds) == 3
    assert sizes == {schema(config).size_of(factors) for factors in METHODS[method].trains}
    exact = method not in ("naive", "svd")
    assert all((line.aggregation_error < 1e-5) == exact for line in run.rounds[1:])


def test_a_client_is_told_which_of_its_updates_counted_last(tmp_path):
    told = []

    def behave(number, header, reply):
        if header["kind"] == "train" and number == 0:
            told.append((header["round"], header["attempt"], header["counted-round"], header["counted-attempt"]))
            if header["round"] == 2:
                raise RuntimeError("away")
        if header["kind"] == "train" and number > 1 and (header["round"], header["attempt"]) == (3, 1):
            raise RuntimeError("away")
        return reply

    play(settings(tmp_path, federation__rounds=4, federation__quorum=0.75, federation__ask_again_s=0), behave)
    assert told == [(1, 1, 0, 0), (2, 1, 1, 1), (3, 1, 1, 1), (3, 2, 1, 1), (4, 1, 3, 2)]


def test_a_rounded_adapter_is_on_its_grid_on_the_disk_and_the_rest_is_kept_beside(tmp_path):
    config = settings(tmp_path, compression__down="int4", aggregation__server_optimizer="adam")
    run = play(config)
    adapter = read_peft(run.folder / "adapters" / "0003")
    assert (rounded(adapter.vector, "int4") == adapter.vector).all()
    kept = safetensors.numpy.load_file(run.folder / "adapters" / "0003" / "server_memory.safetensors")
    assert sorted(kept) == ["master", "mean", "square", "square-weight", "weight"]
    assert np.abs(kept["master"] - adapter.vector).max() > 0


def test_a_damaged_memory_of_the_server_goes_back_a_round(tmp_path):
    config = settings(tmp_path, aggregation__server_optimizer="momentum")
    whole = play(config)
    path = whole.folder / "adapters" / "0003" / "server_memory.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    again = play(config)
    assert again.result()["adapter_sha256"] == whole.result()["adapter_sha256"]
    assert [line.round for line in again.journal.of(Resumed)] == [2]


def test_a_robust_rule_counts_only_updates_with_a_weight(tmp_path):
    """Two of four without signal: a trimmed mean of what is left would be the mean of nothing, which is NaN."""

    def behave(number, header, reply):
        if header["kind"] == "train" and number > 1:
            wire.with_metrics(reply, metrics(effective=0.0))
        return reply

    values = {"aggregation__rule": "trimmed-mean", "aggregation__hostile": 1, "federation__max_void_rounds": 1}
    with pytest.raises(RunError, match="only 2 updates had a weight .*needs 3"):
        play(settings(tmp_path, **values), behave)


def test_who_says_it_took_few_steps_does_not_get_past_the_norm_limit(tmp_path):
    """FedNova scales the delta of few steps up; the limit is on what counts."""
    limits = {"train__steps_per_round": 100, "train__seconds_per_round": 60.0, "intake__max_delta_norm": 2.0}

    def behave(number, header, reply):
        if header["kind"] == "train":
            steps = 1 if number == 0 else 100
            reply["header"]["num-steps"], reply["header"]["num-examples"] = steps, 4 * steps
            wire.with_metrics(reply, {**metrics(), "groups/effective": 1.0 * steps, "groups/zero-variance-share": 0.75})
        return reply

    run = play(settings(tmp_path, aggregation__weights="uniform", **limits), behave)
    assert all(line.update_norm <= 2.0 for line in run.rounds)
    assert run.rounds[0].clients["client-0"].clipped


def test_an_update_without_weight_is_not_said_to_have_counted(tmp_path):
    told = []

    def behave(number, header, reply):
        if header["kind"] == "train" and number == 0:
            told.append(header["counted-round"])
            if header["round"] == 2:
                wire.with_metrics(reply, metrics(effective=0.0))
        return reply

    run = play(settings(tmp_path), behave)
    assert told == [0, 1, 1]
    assert run.rounds[1].clients["client-0"].share == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("codec", ["bf16", "int8", "int4"])
def test_every_method_can_be_rounded_on_its_way_down(tmp_path, method, codec):
    values = {"aggregation__method": method, "compression__down": codec, "evaluation__every": 0}
    run = play(settings(tmp_path, federation__rounds=2, **values))
    assert len(run.rounds) == 2


def test_a_robust_rule_needs_enough_updates(tmp_path):
    config = settings(tmp_path, aggregation__rule="multi-krum", aggregation__hostile=1, federation__max_void_rounds=1)
    with pytest.raises(RunError, match="only 4 updates had a weight .*needs 5"):
        play(config)


def test_a_run_whose_last_counts_were_kept_does_not_pass_an_older_accuracy_off_as_the_last(tmp_path):
    def keep(number, header, reply):
        return wire.pack({"error": "policy.ledger.survivors"})

    run = play(settings(tmp_path), misbehave_in("evaluate", {0, 1, 2, 3}, keep, round_number=3))
    assert run.result()["accuracy"]["round"] == 2
    assert run.result()["accuracy"]["greedy"]["after"] is None
    assert "accuracy is that after round 2. After round 3 there is none: after round 3: no sampled" in run.outdated
    assert run.outdated in falls(run)
    assert play(settings(tmp_path / "whole")).outdated == ""
