"""`fedgrpo audit verify` and `record`: a sound run is right in every check, and what a server could do is found."""

import json
import re
import shutil
from dataclasses import replace

import pytest
from audited import AuditedFederation
from fedgrpo.common.audit.record import Line
from fedgrpo.common.errors import ConfigError
from fedgrpo.common.identity.keys import Identity
from fedgrpo.simulations.audit.agreements import agreement_complaints
from fedgrpo.simulations.audit.compliance import SHOWN_ROUNDS, compliance, page
from fedgrpo.simulations.audit.evidence import gather
from fedgrpo.simulations.audit.verify import verify_log
from organisations import organisation_file

ME = "client-1"
CHECKS = ["chain and signatures", "counter-signatures", "own copy", "own contributions", "policy"]
CHECKS += ["agreement on members", "aggregates"]


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """A federation after a run of three rounds that kept its updates."""
    fed = AuditedFederation(tmp_path_factory.mktemp("audit") / "fed")
    fed.play(output__keep_updates=True)
    return fed


@pytest.fixture
def fed(played, tmp_path):
    """A copy of it, to be changed."""
    copy = AuditedFederation.__new__(AuditedFederation)
    copy.__dict__ |= played.__dict__
    copy.folder = tmp_path / "fed"
    shutil.copytree(played.folder, copy.folder)
    copy.config = played.config.with_values({"output.dir": str(copy.folder)})
    return copy


def organisation(fed, **changes):
    values = {
        "organisation__name": ME,
        "learner__folder": ME,
        "federation__manifest": "manifest.toml",
        "policy__manifest_sha256": fed.manifest.sha256,
        **changes,
    }
    return organisation_file(fed.folder, **values)


def verified(fed, log=None, **changes):
    return verify_log(gather(log or fed.log.parent, organisation(fed, **changes)))


def statuses(found):
    return {check.name: check.status for check in found.checks}


def texts(found):
    return {check.name: check.text for check in found.checks}


def rewritten(fed, index, **changes):
    """Have the server sign another history from a record on: what it can do, since it has the key."""
    lines, before = [Line.read(data) for data in fed.log.read_bytes().splitlines()], None
    for line in lines:
        record = line.record if before is None else replace(line.record, previous=before.head)
        if record.index == index:
            record = replace(record, **changes)
        before = Line.signed(record, fed.server) if record != line.record else line
        lines[record.index] = before
    fed.log.write_bytes(b"".join(line.data + b"\n" for line in lines))


def test_a_sound_run_is_right_in_every_check(fed):
    found = verified(fed)
    assert [check.name for check in found.checks] == CHECKS
    assert statuses(found) == {**dict.fromkeys(CHECKS, "ok"), "agreement on members": "unknown"}
    says = texts(found)
    assert "5 records of fed-" in says["chain and signatures"]
    assert "3 committed rounds, 0 void" in says["chain and signatures"]
    assert "all 4 members that were asked signed the first 4 records" in says["counter-signatures"]
    assert "3 updates are counted, each as in its receipts" in says["own contributions"]
    assert "the smallest round has 4 members" in says["policy"]
    assert "all 3 rounds, computed again" in says["aggregates"]


def test_the_log_alone_is_enough_but_for_the_aggregates(fed, tmp_path):
    shutil.copy(fed.log, tmp_path / "log.jsonl")
    found = verified(fed, tmp_path / "log.jsonl")
    assert found.sound
    assert statuses(found)["aggregates"] == "unknown"
    assert "the updates are not here" in texts(found)["aggregates"]


def test_a_changed_byte_makes_the_chain_wrong(fed):
    data = bytearray(fed.log.read_bytes())
    data[len(data) // 2] ^= 1
    fed.log.write_bytes(bytes(data))
    found = verified(fed)
    assert statuses(found)["chain and signatures"] == "bad"
    assert not found.sound


def test_a_history_that_was_signed_anew_is_not_the_one_that_was_shown(fed):
    rewritten(fed, 2, reason="nothing")
    found = verified(fed)
    assert statuses(found)["own copy"] == "bad"
    assert "record 2 is not the one that this organisation was shown" in texts(found)["own copy"]
    assert statuses(found)["chain and signatures"] == "bad", "the members' signatures are not of this history"


def test_a_log_that_was_cut_off_is_found(fed):
    lines = fed.log.read_bytes().splitlines(keepends=True)
    fed.log.write_bytes(b"".join(lines[:3]))
    found = verified(fed)
    assert statuses(found)["chain and signatures"] == "ok"
    assert "the log ends at record 2; this organisation was shown record 3" in texts(found)["own copy"]


def test_an_update_that_was_not_given_is_found(fed):
    receipts = fed.folder / ME / "audit" / "receipts.jsonl"
    receipts.write_text("".join(receipts.read_text().splitlines(keepends=True)[:2]))
    found = verified(fed)
    assert statuses(found)["own contributions"] == "bad"
    assert "round 3: the log counts" in texts(found)["own contributions"]


def test_an_update_that_the_egress_record_does_not_have_is_found(fed):
    receipts = [json.loads(line) for line in (fed.folder / ME / "audit" / "receipts.jsonl").read_text().splitlines()]
    fields = [[{"name": "vector.vector", "sha256": receipt["sha256"]}] for receipt in receipts]
    about = {"time": receipts[0]["time"], "answers": "train", "sent": True, "bytes": 100, "to": "fed.example:8000"}
    entries = [json.dumps({**about, "fields": each}) + "\n" for each in fields]
    (fed.folder / "egress.jsonl").write_text("".join(entries))
    assert "receipts and egress record" in texts(verified(fed))["own contributions"]
    (fed.folder / "egress.jsonl").write_text("".join(entries[1:]))
    assert "is not in the egress record" in texts(verified(fed))["own contributions"]


def test_what_was_given_and_not_counted_is_said(fed):
    (fed.folder / ME / "audit" / "receipts.jsonl").open("a").write(
        json.dumps(
            {**json.loads((fed.folder / ME / "audit" / "receipts.jsonl").read_text().splitlines()[0]), "attempt": 2}
        )
        + "\n"
    )
    assert "1 that it gave are not counted" in texts(verified(fed))["own contributions"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"policy__max_rank": 1}, "adapter.rank is 2"),
        ({"policy__min_members": 5}, "federation.min-updates lets a round of 2 updates count"),
        ({"policy__privacy": "secagg"}, "privacy"),
        ({"policy__max_rounds": 2}, "federation.rounds is 3"),
    ],
)
def test_settings_beyond_the_policy_are_found(fed, changes, says):
    found = verified(fed, **changes)
    assert statuses(found)["policy"] == "bad"
    assert says in texts(found)["policy"]


def test_settings_that_are_not_those_of_the_run_are_found(fed):
    first = Line.read(fed.log.read_bytes().splitlines()[0]).record
    rewritten(fed, 0, settings={**first.settings, "grpo.learning-rate": 1e-4})
    assert "not those whose hash every round names" in texts(verified(fed))["policy"]


@pytest.mark.parametrize("what", ["update", "adapter"])
def test_an_aggregate_that_is_not_the_updates_is_found(fed, what):
    if what == "update":
        path = fed.log.parent / "updates" / "0002" / "client-3.bin"
        path.write_bytes(bytes(reversed(path.read_bytes())))
        says = "round 2: client-3.bin is not the update in the log"
    else:
        rewritten(fed, 3, adapter_after="ab" * 32)
        says = "round 3: the aggregate of its updates is"
    found = verified(fed)
    assert statuses(found)["aggregates"] == "bad"
    assert says in texts(found)["aggregates"]


@pytest.mark.parametrize(
    "values",
    [
        {"aggregation__method": "rolora"},
        {"aggregation__method": "svd", "compression__up": "int8"},
        {"aggregation__method": "xs", "aggregation__server_optimizer": "momentum", "compression__down": "int8"},
        {"aggregation__rule": "median", "aggregation__weights": "uniform"},
        {"compression__up": "top-k", "intake__clip_to_median": 1.0},
        {"simulation__ranks": "0;1"},
    ],
    ids=lambda values: "-".join(map(str, values.values())),
)
def test_every_way_to_aggregate_can_be_computed_again(tmp_path, values):
    fed = AuditedFederation(tmp_path / "fed", **values)
    fed.play(output__keep_updates=True)
    method = values.get("aggregation__method", "naive")
    found = verified(fed, policy__methods=[method], policy__max_bytes_per_round=10**6)
    assert (statuses(found)["aggregates"], found.sound) == ("ok", True), texts(found)


def test_a_member_that_signed_nothing_is_named(tmp_path):
    fed = AuditedFederation(tmp_path / "fed", federation__rounds=1)
    honest = fed.sign
    fed.sign = lambda number, *rest: None if number == 2 else honest(number, *rest)
    fed.play()
    found = verified(fed)
    assert statuses(found)["counter-signatures"] == "unknown"
    assert texts(found)["counter-signatures"].startswith("client-2 signed nothing")
    assert found.sound


def test_another_manifest_than_the_pinned_one_checks_nothing(fed):
    with pytest.raises(ConfigError, match="another manifest than the one you compared"):
        verified(fed, policy__manifest_sha256="0" * 64)


def test_signatures_of_a_masked_sum_are_checked(played):
    from fedgrpo.common.secagg.statements import Context, agreement

    record = Line.read(played.log.read_bytes().splitlines()[1]).record
    values = {"kind": "train", "federation": record.run, "round": 1, "attempt": 1, "asked": "", "app": "fedgrpo"}
    values |= {"adapter": record.adapter_before, "config": "0" * 64, "manifest": record.manifest, "version": 1}
    context, masked = Context(**values, numbers=("weight",)), sorted(played.identities)
    statement = agreement(context, b"roster", masked, record.members)
    signed = {name: identity.sign(statement).hex() for name, identity in played.identities.items()}
    agreed = {"context": {**values, "numbers": ["weight"]}, "roster": b"roster".hex(), "masked": masked}
    sound = replace(record, agreement=signed, agreed=agreed)
    assert list(agreement_complaints(sound, played.manifest)) == []
    few = dict(list(signed.items())[:2])
    assert "2 members signed who is in the sum, 3 are needed" in "".join(
        agreement_complaints(replace(sound, agreement=few), played.manifest)
    )
    forged = {**signed, "client-0": Identity.generate().sign(statement).hex()}
    assert list(agreement_complaints(replace(sound, agreement=forged), played.manifest)) == [
        "client-0 has not signed this set of members"
    ]
    without = {name: sent for name, sent in record.members.items() if name != "client-3"}
    assert len(list(agreement_complaints(replace(sound, members=without), played.manifest))) == 5
    other = {**agreed, "context": {**agreed["context"], "adapter": "1" * 64}}
    assert "another round, adapter or manifest" in next(
        agreement_complaints(replace(sound, agreed=other), played.manifest)
    )
    assert list(agreement_complaints(record, played.manifest)) == ["what was signed is not in the log"]


def test_the_record_says_what_left(fed):
    made = compliance(verified(fed))
    assert made["organisation"] == ME
    assert (made["rounds"], made["rounds_with_us"], made["sound"]) == (3, 3, True)
    assert [update["counted_with"] for update in made["updates"]] == [4, 4, 4]
    assert made["form_in_words"].startswith("clear: the server could read")
    assert made["privacy_spent"] is None
    assert {member["name"]: member["rounds"] for member in made["members"]} == dict.fromkeys(fed.identities, 3)
    assert made["hashes"]["adapter at the end"] == Line.read(fed.log.read_bytes().splitlines()[-1]).record.adapter_after
    assert all(check["how"] for check in made["checks"])


def test_epsilon_is_this_organisations_own_last_statement(fed):
    spent = {ME: '{"epsilon": 3.5, "delta": 1e-05}', "client-0": '{"epsilon": 99}'}
    rewritten(fed, 3, privacy=spent)
    made = compliance(verified(fed))
    assert made["privacy_spent"] == {"epsilon": 3.5, "delta": 1e-05}
    assert "epsilon = 3.5, delta = 1e-05" in page(made)


def test_what_a_masked_round_cost_is_read_from_the_receipts_since_the_server_is_not_told(fed):
    receipts = fed.folder / ME / "audit" / "receipts.jsonl"
    lines = [json.loads(line) for line in receipts.read_text().splitlines()]
    lines[-1]["spent"] = '{"epsilon": 2.25, "unit": "patient"}'
    receipts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    made = compliance(verified(fed))
    assert made["privacy_spent"] == {"epsilon": 2.25, "unit": "patient"}
    assert "epsilon = 2.25, unit = patient" in page(made)


def test_without_a_statement_the_page_denies_noise_only_if_the_settings_do(fed):
    made = compliance(verified(fed))
    assert "None was used" in page(made)
    told = page({**made, "noise_in_settings": True})
    assert "None was used" not in told
    assert "no statement of what this organisation has spent" in told


def test_the_page_stands_alone_and_shows_no_markup_of_others(fed):
    made = compliance(verified(fed))
    hostile = "<script>alert(1)</script>\x1b[2J"
    text = page({**made, "federation": hostile, "destinations": [hostile], "run": hostile})
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\x1b[2J" in text
    assert not re.search(r"(src|href)\s*=|url\(|@import", text)
    assert "default-src 'none'" in text
    for update in made["updates"]:
        assert update["sha256"] in page(made)


def test_a_long_run_stays_on_the_page_and_is_whole_in_the_json(fed):
    made = compliance(verified(fed))
    many = [{**made["updates"][0], "round": k, "sha256": f"{k:064x}"} for k in range(1, 201)]
    text = page({**made, "updates": many})
    assert text.count("with 3 others") == SHOWN_ROUNDS
    assert f"… {200 - SHOWN_ROUNDS} more, listed in the JSON" in text
    assert f"{200:064x}" in text


def test_the_commands_end_with_1_where_something_is_wrong(run, fed):
    file = organisation(fed).file
    status, out, _ = run("audit", "verify", fed.log.parent, file, "--format", "json")
    assert status == 0
    assert json.loads(out)["sound"]
    status, out, _ = run("audit", "record", fed.log, file, "--out", fed.folder / "made" / "page.html")
    assert status == 0
    assert (
        json.loads((fed.folder / "made" / "page.json").read_text())["run"]
        in (fed.folder / "made" / "page.html").read_text()
    )
    fed.log.write_bytes(fed.log.read_bytes().replace(b'"attempt":1', b'"attempt":2', 1))
    status, out, _ = run("audit", "verify", fed.log, file)
    assert status == 1
    assert "WRONG" in out
    status, out, _ = run("audit", "record", fed.log, file, "--out", fed.folder / "page.html")
    assert (status, "WRONG in it: chain and signatures" in out) == (1, True)
    status, _, err = run("audit", "verify", fed.folder / "nothing.jsonl", file)
    assert status == 1
    assert "Cannot read the round log" in err
