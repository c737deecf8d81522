"""Canaries in a simulation: fair coins, in the shards that they say, and on record."""

import pytest
from fedgrpo.common.errors import ConfigError
from fedgrpo.common.settings.run_config import RunConfig
from fedgrpo.simulations.engine.canaries import make_canaries, planted, record_canaries, recorded_canaries
from fedgrpo.simulations.engine.simulated_clients import divide


def settings(canaries, **values):
    base = {"simulation.problems": 80, "simulation.canaries": canaries, "evaluation.problems": 8}
    return RunConfig().with_values({**base, **{k.replace("__", ".").replace("_", "-"): v for k, v in values.items()}})


def test_the_coins_are_fair_and_do_not_depend_on_the_client():
    canaries = make_canaries(settings(4000))
    assert abs(sum(c.included for c in canaries) / 4000 - 0.5) < 0.03  # 3.8 standard errors
    for client in range(4):
        mine = [c.included for c in canaries if c.client == client]
        assert len(mine) == 1000
        assert abs(sum(mine) / 1000 - 0.5) < 0.06
    assert len({c.problem.question for c in canaries}) == 4000


def test_canaries_follow_from_the_seeds_and_one_more_keeps_the_others():
    assert make_canaries(settings(50)) == make_canaries(settings(50))
    first, other = make_canaries(settings(50)), make_canaries(settings(50, simulation__canary_seed=1))
    assert [c.problem for c in first] != [c.problem for c in other]
    assert [c.included for c in first] != [c.included for c in other]
    assert [c.included for c in make_canaries(settings(51))][:50] == [c.included for c in first]


def test_a_shard_ends_with_its_included_canaries_and_has_no_other():
    with_canaries, without = divide(settings(40))[0], divide(settings(0))[0]
    canaries = make_canaries(settings(40))
    for client, (shard, plain) in enumerate(zip(with_canaries, without, strict=True)):
        assert shard[: len(plain)] == plain
        assert shard[len(plain) :] == [c.problem for c in canaries if c.included and c.client == client]
    assert sum(map(len, with_canaries)) == 80 + sum(c.included for c in canaries)
    assert planted(without, []) == without


def test_only_clients_that_take_part_get_canaries_and_labels_are_those_of_the_data():
    assert {c.client for c in make_canaries(settings(20, simulation__only=2))} == {2}
    built_in, gsm8k = make_canaries(settings(5)), make_canaries(settings(5, simulation__dataset="gsm8k"))
    assert set(built_in[0].problem.labels) == {"topic", "operator", "steps"}
    assert set(gsm8k[0].problem.labels) == {"steps"}


def test_the_record_is_read_back_and_a_damaged_one_is_named(tmp_path):
    canaries = make_canaries(settings(30))
    assert recorded_canaries(tmp_path) == []
    record_canaries(tmp_path, [])
    assert not (tmp_path / "canaries.jsonl").exists()
    record_canaries(tmp_path, canaries)
    assert recorded_canaries(tmp_path) == canaries
    (tmp_path / "canaries.jsonl").write_text('{"canary": 1, "client": 0}\n')
    with pytest.raises(ConfigError, match="canaries.jsonl is damaged"):
        recorded_canaries(tmp_path)
