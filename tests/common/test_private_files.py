"""Private files: nobody else can open them at any moment, whatever the account's umask."""

import os
import stat

import pytest
from fedgrpo.client.relay.egress import EgressGate
from fedgrpo.common.messages import wire
from fedgrpo.common.storage.atomic import PRIVATE, PUBLIC, make_private_folder, write_atomic
from fedgrpo.common.storage.jsonl import append_line, read_lines
from fedgrpo.server.operator.server_folder import Gateway, ServerFolder, ServerSettings
from organisations import organisation_file


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.fixture
def modes(monkeypatch):
    """Every mode that an open file or folder has when something is flushed to it; the umask hides nothing."""
    seen, before, flush = [], os.umask(0), os.fsync

    def watched(handle):
        seen.append((stat.S_ISDIR(os.fstat(handle).st_mode), stat.S_IMODE(os.fstat(handle).st_mode)))
        flush(handle)

    monkeypatch.setattr(os, "fsync", watched)
    yield seen
    os.umask(before)


def test_a_private_file_has_its_mode_when_its_first_byte_is_written(tmp_path, modes):
    write_atomic(tmp_path / "a", b"secret", PRIVATE)
    append_line(tmp_path / "b", {"a": 1}, PRIVATE)
    append_line(tmp_path / "b", {"a": 2}, PRIVATE)
    assert {found for folder, found in modes if not folder} == {0o600}
    assert [line["a"] for line in read_lines(tmp_path / "b")] == [1, 2]
    write_atomic(tmp_path / "c", b"", PUBLIC)
    assert mode(tmp_path / "c") == 0o666


def test_the_egress_record_is_never_readable_for_others(tmp_path, modes):
    own = organisation_file(tmp_path, flower__egress_record=str(tmp_path / "records" / "egress.jsonl"))
    for _ in range(2):
        EgressGate(own).release(wire.pack({"round": 1}), "train")
    assert {found for folder, found in modes if not folder} == {0o600}
    assert mode(own.egress_record.parent) == 0o700
    own.egress_record.chmod(0o644)
    EgressGate(own).release(wire.pack({"round": 2}), "train")
    assert modes[-1] == (False, 0o600)


def test_a_folder_is_closed_before_anything_is_in_it(tmp_path, modes):
    for before, after in ((None, 0o700), (0o755, 0o700), (0o710, 0o710), (0o777, 0o700)):
        folder = tmp_path / f"folder-{before}"
        if before is not None:
            folder.mkdir(mode=before)
        make_private_folder(folder)
        assert mode(folder) == after


def test_the_operators_folder_is_closed_before_its_keys_are_in_it(tmp_path, modes, monkeypatch):
    from fedgrpo.common.cli import keys

    seen, write = [], keys.write_new
    monkeypatch.setattr(keys, "write_new", lambda path, *a: (seen.append(mode(tmp_path / "fed")), write(path, *a)))
    ServerFolder.create(tmp_path / "fed", ServerSettings(gateway=Gateway(hosts=("fed.example.org",))))
    assert seen
    assert set(seen) == {0o700}
