"""What an organisation refuses of a round log: whatever is not the continuation of what it has seen."""

import json
from dataclasses import replace

import numpy as np
import pytest
from audited import AuditedFederation, place_of
from charges import charge
from federation import schema
from fedgrpo.client.learner.privacy.spent import FILE as SPENT_FILE
from fedgrpo.client.learner.privacy.spent import Spent
from fedgrpo.common.adapter.adapter import Adapter
from fedgrpo.common.audit.receipts import read_receipts
from fedgrpo.common.audit.record import Contribution, Line, head_statement
from fedgrpo.common.errors import ConfigError, PolicyError
from fedgrpo.common.identity.keys import Identity, verify
from fedgrpo.common.identity.manifest import Manifest
from fedgrpo.common.messages.messages import TrainTask
from fedgrpo.common.settings.scope import for_organisation
from fedgrpo.server.aggregation.state import State
from fedgrpo.server.audit.round_log import Outcome, RoundLog
from fedgrpo.server.federation.audited import begin

NAME = "client-1"


class Server:
    """A server whose log grows as a test wants."""

    def __init__(self, fed, path, run="fed-1"):
        self.fed, self.run = fed, run
        self.adapter = Adapter.initial(schema(fed.config))
        self.log = RoundLog(path, fed.manifest, fed.server)
        state = State(federation=run, base_model_sha256="0" * 64, round=0, adapter=self.adapter)
        begin(self.log, state, fed.config, resumed=False)

    def commit(self, members=None, value=1.0, **changes):
        number = self.log.last.rounds + 1
        self.adapter = replace(self.adapter, vector=self.adapter.vector + np.float32(value))
        outcome = Outcome(
            event="committed",
            round=number,
            attempt=1,
            adapter=self.adapter.sha256,
            asked=tuple(self.fed.identities),
            members=members or {},
        )
        line = self.log.prepare(outcome)
        if changes:
            line = Line.signed(replace(line.record, **changes), self.fed.server)
        self.log.append(line)
        return line

    def all(self, first=0, last=None):
        lines = self.log.path.read_text().splitlines(keepends=True)
        return "".join(lines[first:last])

    def task(self, **changes):
        place = {"federation": self.run, "round": self.log.last.rounds + 1, "attempt": 1, "position": 0}
        return TrainTask(**{**place, "adapter": self.adapter, **changes})


@pytest.fixture
def fed(tmp_path):
    return AuditedFederation(tmp_path / "fed")


@pytest.fixture
def server(fed, tmp_path):
    return Server(fed, tmp_path / "audit.jsonl")


@pytest.fixture
def keeper(fed):
    return fed.keepers[NAME]


def refused(key, call, *arguments):
    with pytest.raises(PolicyError) as caught:
        call(*arguments)
    assert caught.value.key == f"audit.{key}"
    return str(caught.value)


def settings_of(fed):
    return for_organisation(fed.config, fed.keepers[NAME].backend)


def test_what_is_signed_is_the_head(fed, server, keeper):
    server.commit()
    index, signature = keeper.sign(server.all())
    statement = head_statement(fed.manifest.sha256, "fed-1", 1, server.log.head)
    assert index == 1
    assert verify(fed.manifest.key_of(NAME), bytes.fromhex(signature), statement)
    assert server.log.countersigned(NAME, index, signature) == ""
    assert keeper.sign(server.log.unseen(NAME)) == (1, signature)
    server.commit()
    assert server.log.unseen(NAME) == server.all(2)
    assert keeper.sign(server.all(2))[0] == 2
    assert keeper.sign(server.all(1))[0] == 2, "what is known already may be shown again"


def test_two_histories_are_refused_also_after_a_restart(fed, server, keeper, tmp_path):
    other = Server(fed, tmp_path / "other.jsonl")
    other.log.path.write_bytes(server.log.path.read_bytes())
    other.log = RoundLog(tmp_path / "other.jsonl", fed.manifest, fed.server)
    server.commit(value=1.0)
    other.commit(value=2.0)
    keeper.sign(server.all())
    assert "it has two histories" in refused("fork", keeper.sign, other.all())
    other.commit()
    assert "does not continue" in refused("record", keeper.sign, other.all(2))
    assert "two histories" in refused("fork", fed.keeper(NAME).sign, other.all())


def test_a_log_that_goes_back_is_refused(server, keeper):
    server.commit()
    server.commit()
    keeper.sign(server.all())
    assert "ends at record 1, but this organisation has seen record 2" in refused(
        "rollback", keeper.sign, server.all(0, 2)
    )


def test_a_log_with_a_gap_is_refused_and_one_that_was_lost_is_sent_whole(fed, server, keeper):
    server.commit()
    server.commit()
    refused("gap", keeper.sign, server.all(1))
    keeper.sign(server.all())
    assert fed.keeper(NAME).sign(server.all(2))[0] == 2


def test_a_long_log_is_sent_in_parts(server, keeper):
    for _ in range(5):
        server.commit()
    signed = []
    while not signed or signed[-1] < 5:
        index, signature = keeper.sign(server.log.unseen(NAME, most=3000))
        assert server.log.countersigned(NAME, index, signature) == ""
        signed.append(index)
    assert signed == sorted(set(signed))
    assert len(signed) > 2


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"previous": "0" * 64}, "does not continue"),
        ({"index": 5}, "does not continue|follow each other"),
        ({"round": 3}, "round 1 is due"),
        ({"adapter_before": "1" * 64}, "begins with another adapter"),
        ({"manifest": "2" * 64}, "another manifest"),
        ({"config": "3" * 64}, "its config is another"),
        ({"mode": "secagg"}, "its mode is another"),
        ({"base_model": "4" * 64}, "its base model is another"),
        ({"event": "void"}, "the adapter changes in a round that is void"),
        ({"event": "created"}, "does not continue"),
        ({"asked": ("stranger",)}, "stranger is not a member"),
        ({"asked": (), "members": {"client-2": Contribution(sha256="5" * 64, bytes=1, form="clear")}}, "was not asked"),
    ],
)
def test_a_record_that_does_not_follow_is_refused_though_it_is_signed(server, keeper, changes, says):
    keeper.sign(server.all())
    line = server.commit(**changes)
    with pytest.raises(PolicyError, match=says) as caught:
        keeper.sign(server.all(0, 1) + line.data.decode() + "\n")
    assert caught.value.key == "audit.record"


def test_a_record_that_the_manifests_key_did_not_sign_is_refused(server, keeper):
    record = server.commit().record
    forged = Line.signed(record, Identity.generate())
    says = refused("record", keeper.sign, server.all(0, 1) + forged.data.decode() + "\n")
    assert "does not have the server's signature" in says


@pytest.mark.parametrize("text", ["x\n", "{}\n", '{"record":{},"signature":"' + "0" * 128 + '"}\n', "", "é\n"])
def test_what_is_no_log_is_refused(keeper, text):
    refused("record", keeper.sign, text)


def test_an_update_that_is_not_ours_is_refused(fed, server, keeper):
    keeper.sign(server.all())
    task = server.task()
    keeper.note(place_of(task), b"mine", "clear", 4)
    (receipt,) = read_receipts(fed.folder / NAME / "audit" / "receipts.jsonl")
    mine = {NAME: Contribution(sha256=receipt.sha256, bytes=4, form="clear")}
    server.commit(mine)
    keeper.sign(server.all())
    server.commit(mine)
    assert "in round 2 that it did not send" in refused("contribution", keeper.sign, server.all(2))


def test_privacy_that_was_not_stated_is_refused(fed, server, keeper):
    keeper.sign(server.all())
    keeper.note(place_of(server.task()), b"mine", "clear", 4, privacy='{"epsilon":2.0}')
    (receipt,) = read_receipts(fed.folder / NAME / "audit" / "receipts.jsonl")
    mine = {NAME: Contribution(sha256=receipt.sha256, bytes=4, form="clear")}
    line = server.commit(mine, privacy={NAME: '{"epsilon":1.0}'})
    text = server.all(0, 1) + line.data.decode() + "\n"
    assert "of the privacy that it has spent, which it did not make" in refused("privacy", keeper.sign, text)
    honest = Line.signed(replace(line.record, privacy={NAME: '{"epsilon":2.0}'}), fed.server)
    keeper.sign(server.all(0, 1) + honest.data.decode() + "\n")


def test_a_task_must_follow_from_the_log(fed, server, keeper):
    refused("missing", keeper.check, server.task(), settings_of(fed))
    keeper.sign(server.all())
    keeper.check(server.task(), settings_of(fed))
    other = replace(server.adapter, vector=server.adapter.vector + np.float32(1e-6))
    assert "another organisation may have got another one" in refused(
        "adapter", keeper.check, server.task(adapter=other), settings_of(fed)
    )
    refused("round", keeper.check, server.task(round=2), settings_of(fed))
    refused("missing", keeper.check, server.task(federation="fed-2"), settings_of(fed))
    changed = settings_of(fed).with_values({"grpo.learning-rate": 1e-3})
    refused("settings", keeper.check, server.task(), changed)


def test_a_copy_that_was_changed_stops_the_learner(fed, server, keeper):
    server.commit()
    keeper.sign(server.all())
    copy = fed.folder / NAME / "audit" / "fed-1.jsonl"
    copy.write_bytes(copy.read_bytes().replace(b'"attempt":1', b'"attempt":3', 1))
    with pytest.raises(ConfigError, match=r"copy of the round log, .*fed-1.jsonl, is damaged: line 2"):
        fed.keeper(NAME).sign(server.all())
    assert copy.stat().st_mode & 0o777 == 0o600


def test_another_manifest_is_not_signed_for(fed, server, tmp_path):
    other = replace(fed.manifest, federation="another")
    other.write(tmp_path / "other.toml")
    stranger = Server.__new__(Server)
    stranger.__dict__ |= server.__dict__
    keeper = fed.keeper(NAME)
    keeper.credentials = replace(keeper.credentials, manifest=Manifest.read(tmp_path / "other.toml"))
    assert "another manifest" in refused("record", keeper.sign, server.all())


def test_a_receipt_says_what_the_round_was_charged_and_what_all_cost_by_then(fed, server, keeper):
    task = server.task()
    keeper.sign(server.all())
    budget = Spent(keeper.folder / SPENT_FILE)
    now, earlier = charge(unit="patient", steps=4), charge(unit="patient", steps=4, federation="fed-0")
    for each in (earlier, now):
        budget.charge(each, 1e-5)
    keeper.note(place_of(task), b"masked", "masked")
    keeper.note((task.federation, 1, 2, task.adapter.sha256), b"masked", "masked")
    charged, without = read_receipts(keeper.folder / "audit" / "receipts.jsonl")
    said = json.loads(charged.spent)
    assert said["epsilon"] == pytest.approx(Spent(None).epsilon(1e-5, [earlier, now]))
    assert (said["unit"], said["units"], said["steps"], said["delta"]) == ("patient", 80, 4, 1e-5)
    assert (charged.privacy, without.spent) == ("", "")
