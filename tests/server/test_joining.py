"""Who takes part: joining, the majority's model, leaving and coming back, sitting out, ranks."""

import pytest
from federation import client_app, fail, garbage, grid, misbehave_in, play, settings
from fedgrpo.common.errors import ConfigError, RunError
from fedgrpo.server import main as main_module
from fedgrpo.server.run.reader import Run


def test_too_few_clients_end_with_who_is_missing(tmp_path):
    config = settings(tmp_path, federation__min_clients=5, federation__join_timeout_s=0.3)
    with pytest.raises(RunError, match="4 of the 5 clients needed have joined"):
        play(config)


def other_shapes(number, header, reply):
    reply["header"]["schema"] = reply["header"]["schema"].replace("layer.0", "layer.00")
    return reply


def other_weights(number, header, reply):
    reply["header"]["base-model-sha256"] = "f" * 64
    return reply


@pytest.mark.parametrize("how", [other_shapes, other_weights])
def test_the_majority_decides_which_model_is_meant_and_the_others_are_turned_away(tmp_path, how):
    run = play(settings(tmp_path), misbehave_in("join", {0}, how))
    assert all(sorted(line.clients) == ["client-1", "client-2", "client-3"] for line in run.rounds)


@pytest.mark.parametrize("how", [other_shapes, other_weights])
def test_without_a_majority_the_run_does_not_begin(tmp_path, how):
    config = settings(tmp_path, federation__join_timeout_s=0.5)
    with pytest.raises(RunError, match="No adapter and base model is meant by more than half"):
        play(config, misbehave_in("join", {0, 1}, how))


def test_a_resumed_run_keeps_the_model_it_began_with(tmp_path):
    config = settings(tmp_path, federation__join_timeout_s=0.5)
    with pytest.raises(RunError, match="Round 2 was void"):
        play(config, misbehave_in("train", {0, 1, 2, 3}, fail, round_number=2))
    with pytest.raises(RunError, match=r"0 of the 2 clients needed.*other weights"):
        play(config, misbehave_in("join", {0, 1, 2, 3}, other_weights))


def test_clients_come_and_go_between_rounds(tmp_path, monkeypatch):
    """client-3 appears during round 1, client-0 leaves during round 2; nobody waits for either."""
    clock, there = {"round": 0}, {0: [2, 3, 4], 1: [2, 3, 4, 5], 2: [3, 4, 5], 3: [3, 4, 5], 4: [3, 4, 5]}

    def tick(number, header, reply):
        if header["kind"] == "train":
            clock["round"] = header["round"]
        return reply

    config = settings(tmp_path, federation__rounds=4, federation__start_clients=3, evaluation__every=0)
    net = grid(config, client_app(config, tick))
    monkeypatch.setattr(net, "get_node_ids", lambda: there[clock["round"]])
    main_module.run_federation(net, config)
    net.close()
    cohorts = [sorted(line.clients) for line in Run.read(tmp_path / "run").rounds]
    assert cohorts[0] == ["client-0", "client-1", "client-2"]
    assert cohorts[-1] == ["client-1", "client-2", "client-3"]


def test_a_round_waits_for_a_client_that_went_away(tmp_path, monkeypatch, caplog):
    """client-1 is away for some time after round 1: the next round starts when it is back, and nothing is void."""
    caplog.set_level("INFO", logger="fedgrpo.federation")
    away, seen = {"looks": 0}, {"round": 0}

    def tick(number, header, reply):
        if header["kind"] == "train":
            seen["round"] = header["round"]
        return reply

    def there():
        if seen["round"] == 1 and away["looks"] < 5:
            away["looks"] += 1
            return [2]
        return [2, 3]

    values = {"federation__start_clients": 2, "simulation__clients": 2, "federation__rounds": 2}
    config = settings(tmp_path, **values, evaluation__every=0, federation__join_timeout_s=20.0)
    net = grid(config, client_app(config, tick))
    monkeypatch.setattr(net, "get_node_ids", there)
    main_module.run_federation(net, config)
    net.close()
    run = Run.read(tmp_path / "run")
    assert run.result()["void_rounds"] == 0
    assert [sorted(line.clients) for line in run.rounds] == [["client-0", "client-1"]] * 2
    assert "1 of the 2 clients needed are connected (federation.min-clients): waiting up to 20 s" in caplog.text


def test_a_run_stops_when_nobody_comes_back_in_time_and_can_be_resumed(tmp_path, monkeypatch):
    seen = {"round": 0}

    def tick(number, header, reply):
        if header["kind"] == "train":
            seen["round"] = header["round"]
        return reply

    values = {"federation__start_clients": 2, "simulation__clients": 2, "federation__rounds": 2}
    config = settings(tmp_path, **values, evaluation__every=0, federation__join_timeout_s=0.5)
    net = grid(config, client_app(config, tick))
    monkeypatch.setattr(net, "get_node_ids", lambda: [2] if seen["round"] == 1 else [2, 3])
    wanted = r"Round 2 cannot start: 1 of the 2 clients needed .*after 0.5 s.*1 committed rounds are safe"
    with pytest.raises(RunError, match=wanted):
        main_module.run_federation(net, config)
    monkeypatch.setattr(net, "get_node_ids", lambda: [2, 3])
    main_module.run_federation(net, config)
    net.close()
    assert Run.read(tmp_path / "run").result()["finished"]


def test_nobody_waits_for_clients_that_sit_out_because_of_their_strikes(tmp_path):
    values = {"federation__start_clients": 3, "simulation__clients": 3, "federation__min_clients": 3}
    config = settings(tmp_path, **values, federation__max_strikes=1, federation__join_timeout_s=600.0)
    wanted = r"Round 2 cannot start: 2 of the 3 clients needed .*federation.max-strikes\): client-0"
    with pytest.raises(RunError, match=wanted):
        play(config, misbehave_in("train", {0}, garbage))


def test_two_nodes_cannot_be_the_same_organisation(tmp_path):
    def pretend(number, header, reply):
        reply["header"]["organisation"] = "client-0"
        return reply

    run = play(settings(tmp_path), misbehave_in("join", {1}, pretend))
    assert sorted(run.rounds[0].clients) == ["client-0", "client-2", "client-3"]


def test_a_client_that_sits_out_still_sits_out_after_a_resume(tmp_path):
    """Garbage in rounds 1 and 2 makes client-1 sit out; a resume after round 2 must not forget it."""
    behave = misbehave_in("train", {1}, lambda n, h, r: garbage(n, h, r) if h["round"] < 3 else r)
    values = {"federation__rounds": 5, "federation__max_strikes": 2, "evaluation__every": 4}
    clean = play(settings(tmp_path / "clean", **values), behave)

    def fail_all_in_round_4(number, header, reply):
        return fail(number, header, reply) if header["round"] == 4 and header["kind"] == "train" else reply

    config = settings(tmp_path, **values)
    with pytest.raises(RunError, match="Round 4 was void"):
        play(config, lambda n, h, r: fail_all_in_round_4(n, h, behave(n, h, r)) if h["kind"] != "join" else r)
    resumed = play(config, behave)
    assert [sorted(line.clients) for line in resumed.rounds] == [sorted(line.clients) for line in clean.rounds]
    assert resumed.result()["adapter_sha256"] == clean.result()["adapter_sha256"]
    assert [e.round for e in resumed.sampled] == [e.round for e in clean.sampled] == [0, 4, 5]


def test_ranks_that_cannot_be_mixed_are_refused_before_anything_runs(tmp_path):
    mixed = {"simulation__ranks": "1;2"}
    for reason, values in {
        "cannot be cut": {"compression__down": "int8"},
        "padding would vote": {"aggregation__rule": "median"},
        "has no smaller ranks": {"aggregation__method": "xs"},
    }.items():
        with pytest.raises(ConfigError, match=reason):
            settings(tmp_path, **mixed, **values)
    with pytest.raises(ConfigError, match="needs 9 updates"):
        settings(tmp_path, aggregation__rule="multi-krum", aggregation__hostile=3, federation__clients_per_round=4)
    with pytest.raises(ConfigError, match="rounds them away"):
        settings(tmp_path, aggregation__method="flora", model__dtype="bfloat16")


def test_clients_of_smaller_rank_take_part_where_the_method_allows_it(tmp_path):
    ranks = {"adapter__rank": 4, "adapter__alpha": 8, "simulation__ranks": "1;2;4"}
    asked = {}

    def behave(number, header, reply):
        if header["kind"] == "train":
            asked[number] = reply["vector"]["vector"].shape[0]
        return reply

    run = play(settings(tmp_path, **ranks), behave)
    assert asked == {0: 20, 1: 40, 2: 80, 3: 20}  # A of 6 and 5 columns, B of 5 and 4 rows
    assert set(run.rounds[-1].clients) == {f"client-{k}" for k in range(4)}
