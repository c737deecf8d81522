"""One round as a pure function: golden numbers by hand, the state's bookkeeping, and what it must not know."""

import ast
from dataclasses import replace

import numpy as np
import pytest
from checkout import ROOT
from fedgrpo.common.adapter.adapter import Adapter, l2_norm
from fedgrpo.common.adapter.compression import rounded
from fedgrpo.common.adapter.schema import Module
from fedgrpo.common.messages.messages import run_schema
from fedgrpo.common.settings.run_config import RunConfig
from fedgrpo.server.aggregation.aggregate import ReceivedUpdate, aggregate, clip_limit
from fedgrpo.server.aggregation.state import State
from fedgrpo.server.aggregation.weights import KEPT_ROUNDS
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

MODULES = (Module("down", 5, 3), Module("up", 3, 4))


def settings(**values):
    base = {"adapter.rank": 2, "adapter.alpha": 4, "aggregation.max-share": 1.0}
    return RunConfig().with_values({**base, **{k.replace("__", ".").replace("_", "-"): v for k, v in values.items()}})


def beginning(config, **changes):
    schema = run_schema(config, MODULES)
    return State(federation="f", base_model_sha256="b", round=0, adapter=Adapter.initial(schema), **changes)


def update(state, value, *, weight=1.0, steps=2, examples=8, reward=None):
    """An update whose delta is `value` everywhere, or the vector given."""
    delta = np.full(state.adapter.schema.size, value, np.float32) if np.isscalar(value) else value
    metrics = {} if reward is None else {"reward/mean": reward}
    return ReceivedUpdate(
        delta=delta,
        schema=state.adapter.schema,
        norm=l2_norm(delta),
        weight=weight,
        steps=steps,
        examples=examples,
        metrics=metrics,
    )


def moved(before, after):
    return after.adapter.vector - before.adapter.vector


def test_the_adapter_moves_by_the_weighted_mean():
    config = settings()
    state = beginning(config)
    after, found = aggregate(state, {"a": update(state, 1.0, weight=3.0), "b": update(state, -2.0)}, config)
    assert found.shares == {"a": 0.75, "b": 0.25}
    assert moved(state, after) == pytest.approx(np.full(state.adapter.schema.size, 0.25), abs=1e-6)
    assert found.update_norm == pytest.approx(0.25 * state.adapter.schema.size**0.5, rel=1e-5)
    assert found.clipped == {"a": False, "b": False}


def test_nobody_counts_more_than_the_largest_share():
    config = settings(aggregation__max_share=0.6)
    state = beginning(config)
    _, found = aggregate(state, {"a": update(state, 1.0, weight=9.0), "b": update(state, 1.0)}, config)
    assert found.shares == pytest.approx({"a": 0.6, "b": 0.4})


def test_who_took_more_steps_does_not_pull_harder():
    """tau = 1 and 3, mean 2: factors 2 and 2/3 (FedNova)."""
    config = settings()
    state = beginning(config)
    after, _ = aggregate(state, {"a": update(state, 1.0, steps=1), "b": update(state, 1.0, steps=3)}, config)
    assert moved(state, after) == pytest.approx(np.full(state.adapter.schema.size, 4 / 3), rel=1e-5)


def test_a_delta_is_clipped_by_its_norm_after_it_was_scaled_for_its_steps():
    config = settings(intake__max_delta_norm=1.0)
    state = beginning(config)
    unit = 1 / state.adapter.schema.size**0.5
    updates = {"a": update(state, unit, steps=1), "b": update(state, unit, steps=3)}  # norms count as 2 and 2/3
    after, found = aggregate(state, updates, config)
    assert found.clipped == {"a": True, "b": False}
    assert l2_norm(moved(state, after)) == pytest.approx((1 + 2 / 3) / 2, rel=1e-5)


def test_a_delta_longer_than_a_multiple_of_the_median_is_clipped_to_it():
    config = settings(intake__clip_to_median=2.0)
    state = beginning(config)
    size = state.adapter.schema.size
    updates = {"a": update(state, 1.0), "b": update(state, 1.0), "long": update(state, 10.0)}
    after, found = aggregate(state, updates, config)
    assert found.clipped == {"a": False, "b": False, "long": True}
    assert moved(state, after) == pytest.approx(np.full(size, 4 / 3), rel=1e-5)
    assert after.median_norm == pytest.approx(size**0.5, rel=1e-6)
    later, found = aggregate(replace(after, median_norm=0.25 * size**0.5), updates, config)  # of the round before
    assert all(found.clipped.values())
    assert moved(after, later) == pytest.approx(np.full(size, 0.5), rel=1e-5)


def test_the_median_norm_is_of_the_deltas_that_moved_and_stays_where_none_did():
    config = settings()
    state = beginning(config, median_norm=7.0)
    size = state.adapter.schema.size
    after, _ = aggregate(state, {"a": update(state, 0.0), "b": update(state, 2.0)}, config)
    assert after.median_norm == pytest.approx(2 * size**0.5, rel=1e-6)
    assert aggregate(state, {"a": update(state, 0.0)}, config)[0].median_norm == 7.0


def test_silent_clients_do_not_lower_the_norm_that_others_are_clipped_to():
    """Three of five sent a delta of zero: the median of all would be 0, and with it the limit of this round and the
    next."""
    config = settings(intake__clip_to_median=2.0, aggregation__max_share=1.0)
    state = beginning(config)
    size = state.adapter.schema.size
    silent = {name: update(state, 0.0) for name in "xyz"}
    for moving, clipped in (({"a": 1.0, "b": 1.0, "c": 10.0}, "c"), ({"a": 1.0, "b": 1.0}, "")):
        updates = silent | {name: update(state, length) for name, length in moving.items()}
        after, found = aggregate(state, updates, config)
        assert "".join(name for name, is_clipped in found.clipped.items() if is_clipped) == clipped
        assert after.median_norm == pytest.approx(size**0.5, rel=1e-6)
        following, found = aggregate(after, updates, config)
        assert "".join(name for name, is_clipped in found.clipped.items() if is_clipped) == clipped
        assert following.median_norm == pytest.approx(size**0.5, rel=1e-6)


@pytest.mark.parametrize(
    ("multiple", "median", "limit"), [(0.0, 5.0, 100.0), (2.0, 5.0, 10.0), (3.0, 50.0, 100.0), (2.0, 0.0, 100.0)]
)
def test_the_limit_is_the_smaller_of_the_two_that_are_set(multiple, median, limit):
    assert clip_limit(settings(intake__clip_to_median=multiple).intake, median) == limit


def test_the_state_keeps_the_books():
    config = settings()
    state = replace(
        beginning(config),
        round=4,
        voids=1,
        positions={"a": 10, "absent": 3},
        counted={"absent": (2, 1), "silent": (1, 1)},
        rewards={"a": (1.0, 2.0, 3.0, 4.0, 5.0), "absent": (9.0,)},
        strikes={"absent": 1},
    )
    updates = {
        "a": update(state, 1.0, reward=6.0),
        "b": update(state, 1.0, examples=5),
        "silent": update(state, 1.0, weight=0.0, reward=0.5),
    }
    after, found = aggregate(state, updates, config)
    assert (after.round, after.voids) == (5, 0)
    assert after.positions == {"a": 18, "b": 5, "silent": 8, "absent": 3}
    assert after.counted == {"a": (5, 2), "b": (5, 2), "absent": (2, 1), "silent": (1, 1)}
    assert after.rewards == {"a": (2.0, 3.0, 4.0, 5.0, 6.0), "absent": (9.0,), "silent": (0.5,)}
    assert len(after.rewards["a"]) == KEPT_ROUNDS
    assert found.shares["silent"] == 0.0
    assert (after.federation, after.base_model_sha256, after.strikes) == ("f", "b", {"absent": 1})


def test_the_servers_optimizer_remembers_from_round_to_round():
    config = settings(aggregation__server_optimizer="momentum", aggregation__server_momentum=0.5)
    state = beginning(config)
    first, _ = aggregate(state, {"a": update(state, 1.0)}, config)
    second, _ = aggregate(first, {"a": update(state, 0.0)}, config)
    assert moved(state, first) == pytest.approx(np.ones(state.adapter.schema.size), rel=1e-6)
    assert moved(first, second) == pytest.approx(np.full(state.adapter.schema.size, 1 / 3), rel=1e-6)


def test_what_clients_get_is_rounded_and_the_server_goes_on_from_what_is_not():
    config = settings(compression__down="int4")
    state = beginning(config)
    rng = np.random.default_rng(0)
    deltas = [rng.normal(size=state.adapter.schema.size).astype(np.float32) for _ in range(3)]
    exact, total = state, state.adapter.vector.astype(np.float64)
    for delta in deltas:
        exact, _ = aggregate(exact, {"a": update(state, delta)}, config)
        total = total + delta
        assert (exact.adapter.vector == rounded(exact.adapter.vector, "int4")).all()
    assert exact.adapter.vector == pytest.approx(rounded(total.astype(np.float32), "int4"), abs=1e-5)


@hypothesis_settings(deadline=None)
@given(st.integers(0, 2**31 - 1), st.permutations(range(5)))
def test_neither_the_order_of_the_updates_nor_a_second_call_changes_a_bit(seed, order):
    config, rng = settings(intake__clip_to_median=1.0), np.random.default_rng(seed)
    state = beginning(config, positions={"c0": 3})
    updates = {
        f"c{k}": update(
            state,
            rng.normal(size=state.adapter.schema.size).astype(np.float32),
            weight=float(rng.uniform(0, 3)),
            steps=int(rng.integers(1, 4)),
            reward=float(rng.normal()),
        )
        for k in range(5)
    }
    before = {name: u.delta.copy() for name, u in updates.items()}
    (one, found), (two, again) = (
        aggregate(state, updates, config),
        aggregate(state, {f"c{k}": updates[f"c{k}"] for k in order}, config),
    )
    assert one.adapter.sha256 == two.adapter.sha256
    assert replace(one, adapter=state.adapter) == replace(two, adapter=state.adapter)
    assert found == again
    assert all((updates[name].delta == delta).all() for name, delta in before.items())
    assert (state.round, state.positions, state.counted, state.rewards) == (0, {"c0": 3}, {}, {})


def test_the_algorithm_knows_neither_files_nor_flower_nor_the_time():
    forbidden = {"flwr", "os", "pathlib", "time", "random", "secrets", "logging", "threading", "storage", "run"}
    for path in sorted((ROOT / "server" / "aggregation").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert not forbidden & set((node.module or "").split(".")), path
            elif isinstance(node, ast.Import):
                assert not forbidden & {alias.name.split(".")[0] for alias in node.names}, path
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "open", path
