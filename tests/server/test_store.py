"""A run folder survives what disks and crashes do to it."""

import errno
import os
from dataclasses import replace

import numpy as np
import pytest
from federation import play, schema, settings
from fedgrpo.common.adapter.adapter import Adapter
from fedgrpo.common.errors import RunError
from fedgrpo.common.settings.run_config import load_scenario
from fedgrpo.common.storage import atomic, jsonl
from fedgrpo.common.storage.atomic import write_atomic
from fedgrpo.common.storage.jsonl import append_line, read_lines
from fedgrpo.server.run.journal import Committed, Created, Journal, Resumed, Void
from fedgrpo.server.run.lock import locked
from fedgrpo.server.run.metrics import RoundMetrics, read_metrics
from fedgrpo.server.run.store import Store


def round_metrics(number):
    return RoundMetrics(round=number, seconds=1.0, bytes_up=1, bytes_down=1, update_norm=1.0, clients={})


def committed(tmp_path, rounds=3):
    config = settings(tmp_path)
    store = Store(tmp_path / "run")
    state = store.create(config, "fed-1", Adapter.initial(schema(config)), "base")
    states = [state]
    for number in range(1, rounds + 1):
        delta = np.full(state.adapter.schema.size, number, np.float32)
        state = replace(state, round=number, adapter=state.adapter.plus(delta), positions={"a": 4 * number})
        store.commit(state, round_metrics(number), "builtin")
        states.append(state)
    return config, store, states


def test_a_run_is_recovered_as_it_was(tmp_path):
    config, store, states = committed(tmp_path)
    found = Store(store.folder).recover(config)
    assert found.adapter.sha256 == states[-1].adapter.sha256
    assert (found.round, found.positions, found.federation, found.voids) == (3, {"a": 12}, "fed-1", 0)


def test_all_of_the_state_is_recovered_and_the_prompts_that_a_void_attempt_used(tmp_path):
    config, store, states = committed(tmp_path)
    state = replace(
        states[-1],
        round=4,
        positions={"a": 16, "b": 2},
        strikes={"b": 1},
        counted={"a": (4, 2), "b": (1, 1)},
        rewards={"a": (0.5, 1.5)},
        median_norm=2.5,
        memory={"mean": np.arange(3.0)},
    )
    store.commit(state, round_metrics(4), "builtin")
    found = store.recover(config)
    assert (found.memory["mean"] == state.memory["mean"]).all()
    assert found.adapter.sha256 == state.adapter.sha256
    same = {"adapter": state.adapter, "memory": {}}
    assert replace(found, **same) == replace(state, **same)
    store.log(Void(round=5, attempt=1, reason="x", positions={"a": 20}))
    assert store.recover(config).positions == {"a": 20}
    store.log(Void(round=5, attempt=2, reason="x"))
    assert store.recover(config).positions == state.positions


def test_void_attempts_are_remembered(tmp_path):
    config, store, _ = committed(tmp_path)
    store.log(Void(round=4, attempt=1, reason="x"))
    store.log(Void(round=4, attempt=2, reason="x"))
    assert store.recover(config).voids == 2


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_torn_journal_line_is_as_if_it_had_not_been_written(tmp_path, cut):
    config, store, _ = committed(tmp_path)
    data = store.files.journal.read_bytes()
    store.files.journal.write_bytes(data[:-cut])
    assert store.recover(config).round == 2
    store.log(Resumed(round=2))
    assert [type(line) for line in Journal.read(store.files.journal).lines] == [Created, Committed, Committed, Resumed]


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_a_damaged_checkpoint_is_found_out_and_the_one_before_is_taken(tmp_path, damage):
    config, store, states = committed(tmp_path)
    path = store.files.adapter(3) / "adapter_model.safetensors"
    data = bytearray(path.read_bytes())
    for offset in range(0, len(data), 23):
        if damage == "truncate":
            path.write_bytes(data[:offset])
        elif damage == "flip":
            path.write_bytes(data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1 :])
        else:
            path.unlink(missing_ok=True)
        found = store.recover(config)
        assert found.adapter.sha256 == states[found.round].adapter.sha256
        assert found.round == 2 or damage == "flip"  # a flipped bit may be one that says nothing, in the header


def test_metrics_of_rounds_that_do_not_count_are_dropped(tmp_path):
    config, store, _ = committed(tmp_path)
    store.add_metrics(round_metrics(4))
    store.resume(store.recover(config))
    assert [line.round for line in read_metrics(store.files.metrics)] == [1, 2, 3]


def test_without_any_whole_adapter_nothing_is_guessed(tmp_path):
    config, store, _ = committed(tmp_path, rounds=1)
    for number in (0, 1):
        (store.files.adapter(number) / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(RunError, match="nothing to go on from"):
        store.recover(config)


def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_line_that_could_not_be_flushed_is_taken_back(tmp_path, monkeypatch):
    path = tmp_path / "lines"
    append_line(path, {"a": 1})

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(jsonl.os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        append_line(path, {"b": 2})
    monkeypatch.undo()
    append_line(path, {"c": 3})
    assert read_lines(path) == [{"a": 1}, {"c": 3}]


def test_a_full_disk_ends_the_run_with_what_to_do_and_it_can_go_on(tmp_path, monkeypatch):
    config, real, count = settings(tmp_path), Store.commit, []

    def full_at_the_third(self, *args):
        count.append(1)
        if len(count) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, *args)

    monkeypatch.setattr(Store, "commit", full_at_the_third)
    with pytest.raises(RunError, match="No space left on device. Every committed round is safe there; make room"):
        play(config)
    monkeypatch.undo()
    assert play(config).result()["adapter_sha256"] == play(settings(tmp_path / "b")).result()["adapter_sha256"]


def test_two_processes_cannot_work_in_one_run(tmp_path):
    folder = tmp_path / "run"
    with locked(folder), pytest.raises(RunError, match="Another process is at work"), locked(folder):
        pass
    with locked(folder):
        assert Store(folder).is_new


@pytest.mark.parametrize("line", [b"{garbage", b"[1,2]", b"5", b"\xff\xfe", b"[" * 99_999])
def test_a_damaged_line_in_the_middle_is_named(tmp_path, line):
    config, store, _ = committed(tmp_path)
    lines = store.files.journal.read_bytes().split(b"\n")
    store.files.journal.write_bytes(b"\n".join([lines[0], line, *lines[1:]]))
    with pytest.raises(RunError, match=r"journal.jsonl, line 2 is damaged"):
        store.recover(config)


def test_odd_but_honest_characters_in_a_setting_survive(tmp_path):
    config = settings(tmp_path / "😀 ü \x7f 'q' \"d\" \\ #")
    store = Store(tmp_path / "run")
    store.save_config(config)
    assert load_scenario(store.folder / "config.resolved.toml") == config
