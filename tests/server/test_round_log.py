"""The round log over the in-process grid: what is recorded, who signs, and what a dishonest server cannot do."""

import hashlib
import json

import pytest
from audited import AuditedFederation
from federation import garbage, misbehave_in
from fedgrpo.common.audit.chain import covered, read_chain
from fedgrpo.common.audit.record import Line
from fedgrpo.common.errors import ConfigError, RunError
from fedgrpo.common.identity.keys import Identity


@pytest.fixture
def fed(tmp_path):
    return AuditedFederation(tmp_path / "fed")


def chain_of(fed):
    return read_chain(fed.log.read_bytes(), fed.manifest)


def test_each_round_has_a_signed_record_that_every_client_counter_signs(fed):
    run = fed.play()
    chain = chain_of(fed)
    assert chain.findings == []
    assert fed.refused == []
    records = chain.records
    assert [(r.event, r.round) for r in records] == [
        ("created", 0),
        ("committed", 1),
        ("committed", 2),
        ("committed", 3),
        ("finished", 3),
    ]
    adapters = run.journal.adapters
    assert [r.adapter_after for r in records[1:4]] == [adapters[1], adapters[2], adapters[3]]
    assert [r.adapter_before for r in records[1:4]] == [run.journal.created.adapter, adapters[1], adapters[2]]
    assert all(r.config == fed.config.sha256 and r.mode == "none" for r in records)
    assert set(records[2].seen) == set(fed.identities)
    assert {seen.index for seen in records[2].seen.values()} == {1}
    assert covered(chain, fed.identities) == 4, "all but the last record, which holds the last signatures"
    for name in fed.identities:
        assert (fed.folder / name / "audit" / f"{records[0].run}.jsonl").read_bytes() == b"".join(
            line.data + b"\n" for line in chain.lines[:4]
        )


def test_the_contributions_in_the_log_are_those_of_the_receipts(fed):
    fed.play()
    for record in chain_of(fed).records[1:4]:
        assert sorted(record.members) == sorted(record.asked) == sorted(fed.identities)
        for name, member in record.members.items():
            lines = (fed.folder / name / "audit" / "receipts.jsonl").read_text().splitlines()
            receipt = next(r for r in map(json.loads, lines) if r["round"] == record.round)
            assert (receipt["sha256"], receipt["bytes"]) == (member.sha256, member.bytes)
            assert (member.form, member.examples, member.steps, member.weight) == ("clear", 4, 1, 3.0)


def test_without_a_manifest_there_is_no_log_and_messages_are_as_before(fed):
    run = fed.play(output__identity="")
    assert not fed.log.exists()
    assert run.result()["finished"]


def test_a_void_attempt_is_in_the_log(fed):
    def twice(number, header, reply):
        return garbage(number, header, reply) if header["attempt"] == 1 else reply

    fed.play(misbehave_in("train", {0, 1, 2, 3}, twice, 2))
    records = chain_of(fed).records
    assert [(r.event, r.round, r.attempt) for r in records[1:5]] == [
        ("committed", 1, 1),
        ("void", 2, 1),
        ("committed", 2, 2),
        ("committed", 3, 1),
    ]
    assert "only 0 of 4 updates were valid" in records[2].reason
    assert records[2].adapter_after == records[2].adapter_before


def test_a_client_that_does_not_sign_is_seen_not_to(fed):
    honest = fed.sign
    fed.sign = lambda number, *rest: None if number == 3 else honest(number, *rest)
    fed.play()
    chain = chain_of(fed)
    assert chain.findings == []
    assert "client-3" not in chain.seen
    assert covered(chain, fed.identities) == 0


def test_a_client_with_a_wrong_signature_is_left_out(fed):
    honest = fed.sign

    def forged(number, task, lines, data):
        signed = honest(number, task, lines, data)
        if number == 2:
            signed["audit"]["signature"] = "00" * 64
        return signed

    fed.sign = forged
    run = fed.play()
    assert {line.refused["client-2"] for line in run.rounds} == {"audit-signature"}
    assert all("client-2" not in record.members for record in chain_of(fed).records)


@pytest.mark.parametrize("torn", [False, True])
def test_a_resumed_run_continues_the_chain(fed, monkeypatch, torn):
    from fedgrpo.server.federation import rounds

    append = rounds.RoundLog.append

    def killed(self, line):
        if line.record.round == 2:
            raise RuntimeError("killed between journal and log")
        append(self, line)

    monkeypatch.setattr(rounds.RoundLog, "append", killed)
    with pytest.raises(RuntimeError):
        fed.play()
    assert [r.round for r in chain_of(fed).records] == [0, 1]
    monkeypatch.setattr(rounds.RoundLog, "append", append)
    if torn:
        with fed.log.open("ab") as file:
            file.write(b'{"record":{"ad')
    fed.play()
    chain = chain_of(fed)
    assert chain.findings == []
    assert [(r.event, r.round) for r in chain.records] == [
        ("created", 0),
        ("committed", 1),
        ("committed", 2),
        ("resumed", 2),
        ("committed", 3),
        ("finished", 3),
    ]
    assert fed.refused == []
    assert not fed.log.with_name("audit.next").exists()


def test_a_crash_before_the_commit_leaves_no_record_of_it(fed, monkeypatch):
    from fedgrpo.server.run import store

    commit = store.Store.commit
    monkeypatch.setattr(store.Store, "commit", lambda *_: (_ for _ in ()).throw(RuntimeError("killed")))
    with pytest.raises(RuntimeError):
        fed.play()
    assert fed.log.with_name("audit.next").exists()
    monkeypatch.setattr(store.Store, "commit", commit)
    run = fed.play()
    records = chain_of(fed).records
    assert [(r.event, r.round) for r in records[:3]] == [("created", 0), ("resumed", 0), ("committed", 1)]
    assert [r.adapter_after for r in records if r.event == "committed"] == list(run.journal.adapters.values())


def test_a_damaged_log_stops_the_server(fed):
    fed.play(federation__rounds=3)
    data = fed.log.read_bytes()
    fed.log.write_bytes(data.replace(b'"attempt":1', b'"attempt":2', 1))
    with pytest.raises(RunError, match="is damaged: line 2"):
        fed.play()


def test_a_run_keeps_to_having_a_log_or_none(fed):
    fed.play()
    with pytest.raises(ConfigError, match="has a round log, but output.identity is empty"):
        fed.play(output__identity="")
    fed.log.unlink()
    with pytest.raises(ConfigError, match="began without a round log"):
        fed.play()


def test_the_server_needs_the_manifests_key(fed, tmp_path):
    Identity.generate().write(tmp_path / "other.identity")
    with pytest.raises(ConfigError, match=r"output.identity is not the server key of output\.manifest"):
        fed.play(output__identity=str(tmp_path / "other.identity"))
    with pytest.raises(ConfigError, match="output.manifest is empty"):
        fed.play(output__manifest="")


def test_updates_are_kept_as_they_arrived_where_the_run_wants_it(fed):
    run = fed.play(output__keep_updates=True)
    for record in chain_of(fed).records[1:4]:
        for name, member in record.members.items():
            data = (run.folder / "updates" / f"{record.round:04}" / f"{name}.bin").read_bytes()
            assert hashlib.sha256(data).hexdigest() == member.sha256


def test_the_head_is_the_hash_of_the_line(fed):
    fed.play()
    lines = fed.log.read_bytes().splitlines()
    assert Line.read(lines[2]).record.previous == hashlib.sha256(lines[1]).hexdigest()
