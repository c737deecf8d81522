"""A round log has one form: whatever is changed in it is found."""

import hashlib
import random

import pytest
from audited import AuditedFederation
from fedgrpo.common.audit.chain import read_chain
from fedgrpo.common.audit.record import Contribution, Line, Record
from fedgrpo.server.audit.round_log import Outcome, RoundLog


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """A small log: a run's beginning, a round of three clients, and the end with all their signatures."""
    folder = tmp_path_factory.mktemp("audit")
    fed = AuditedFederation(folder / "fed", clients=3)
    written = RoundLog(folder / "audit.jsonl", fed.manifest, fed.server)
    zero = dict.fromkeys(("config", "manifest", "base_model", "schema", "adapter_before", "adapter_after"), "0" * 64)
    texts = {"event": "created", "previous": "", "federation": "", "run": "fed-1", "app": "", "mode": "none"}
    written.create(Record(index=0, time=0, round=0, attempt=0, settings={"grpo.beta": 0.04}, **zero, **texts))
    for round_number in (1, 2):
        for name, keeper in fed.keepers.items():
            assert written.countersigned(name, *keeper.sign(written.unseen(name))) == ""
        if round_number == 1:
            for keeper in fed.keepers.values():
                keeper.note(("fed-1", 1, 1, "0" * 64), b"masked", "masked")
            sent = Contribution(sha256=hashlib.sha256(b"masked").hexdigest(), bytes=6, form="masked")
            members = dict.fromkeys(fed.identities, sent)
            outcome = {"event": "committed", "round": 1, "attempt": 1, "asked": tuple(members), "members": members}
            written.append(written.prepare(Outcome(adapter="2" * 64, **outcome)))
    written.finish()
    return written.path.read_bytes(), fed.manifest


def test_a_sound_log_has_no_findings(log):
    data, manifest = log
    chain = read_chain(data, manifest)
    assert (chain.findings, len(chain.lines)) == ([], 3)


def check_changes(log, places, others):
    data, manifest = log
    for place in places:
        for new in others(data[place]) - {data[place]}:
            changed = data[:place] + bytes([new]) + data[place + 1 :]
            assert read_chain(changed, manifest).findings, f"byte {place}: {data[place]} -> {new}"


def test_every_byte_that_is_changed_is_found(log):
    """Each byte of the log, in one bit."""
    generator = random.Random(0)
    check_changes(log, range(len(log[0])), lambda old: {old ^ 1 << generator.randrange(8)})


@pytest.mark.slow
def test_every_other_value_of_every_byte_is_found(log):
    check_changes(log, range(0, len(log[0]), 7), lambda old: set(range(256)))


def test_what_a_parser_might_forgive_is_found(log):
    """Upper case, spaces and line breaks, at random places."""
    places = random.Random(2).sample(range(len(log[0])), 300)
    check_changes(log, places, lambda old: {old ^ 0x20, ord(" "), ord("\n"), ord("0")})


def test_bytes_that_are_added_or_taken_out_are_found(log):
    data, manifest = log
    generator = random.Random(1)
    for place in generator.sample(range(len(data)), 200):
        assert read_chain(data[:place] + data[place + 1 :], manifest).findings
        assert read_chain(data[:place] + b" " + data[place:], manifest).findings
    assert read_chain(data + b"\n", manifest).findings
    assert read_chain(data + b"x", manifest).findings
    assert read_chain(b"", manifest).findings


def test_lines_that_are_left_out_swapped_or_repeated_are_found(log):
    data, manifest = log
    lines = data.splitlines(keepends=True)
    for k in range(len(lines) - 1):
        assert read_chain(b"".join(lines[:k] + lines[k + 1 :]), manifest).findings
        assert read_chain(b"".join([*lines[:k], lines[k + 1], lines[k], *lines[k + 2 :]]), manifest).findings
        assert read_chain(b"".join([*lines[: k + 1], *lines[k:]]), manifest).findings


def test_a_log_that_ends_early_is_sound_by_itself(log):
    """Only who has seen more can tell: `fedgrpo audit verify` compares with the organisation's own copy."""
    data, manifest = log
    assert not read_chain(b"".join(data.splitlines(keepends=True)[:2]), manifest).findings


def test_a_line_reads_back_as_it_was_written(log):
    data, _ = log
    for text in data.splitlines():
        assert Line.read(text).data == text
