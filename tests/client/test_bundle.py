"""Which app bundles an organisation accepts, and that a foreign one never gets as far as being read."""

import copy
import hashlib
import io
import os
import zipfile

import pytest
from federation import settings
from fedgrpo.client import executor, main
from fedgrpo.client.organisation.bundle import APP_SHA256, accepted_bundles, check_bundle, run_bundle, told_bundle
from fedgrpo.client.organisation.policy_settings import Policy
from fedgrpo.client.relay import supernode
from fedgrpo.client.relay.executor_folder import SUPEREXEC, make_executors
from fedgrpo.common.errors import ConfigError, PolicyError
from fedgrpo.common.flower_private import executor_programs, identify_process
from fedgrpo.common.messages import wire
from fedgrpo.common.settings.bundle import app_files, installed_bundle, installed_sha256
from fedgrpo.common.storage.jsonl import read_lines
from fedgrpo.server.federation.bundle import submitted_bundle
from fedgrpo.server.operator.server_folder import write_app
from fedgrpo.simulations.engine.grid import LocalGrid
from flwr.app import Context, Message, RecordDict
from organisations import organisation_file

OTHER = hashlib.sha256(b"another bundle").hexdigest()


def test_the_bundle_is_two_stubs_and_the_settings_stored_as_they_are():
    with zipfile.ZipFile(io.BytesIO(installed_bundle())) as bundle:
        entries = bundle.infolist()
        assert [e.filename for e in entries] == ["pyproject.toml", "client/app.py", "server/app.py", ".info/CONTENT"]
        assert {(e.compress_type, e.date_time) for e in entries} == {(zipfile.ZIP_STORED, (2024, 10, 1, 0, 0, 0))}
        assert {name: bundle.read(name) for name in app_files()} == app_files()
        assert bundle.testzip() is None
    installed_bundle.cache_clear()
    assert hashlib.sha256(installed_bundle()).hexdigest() == installed_sha256()


def test_the_app_folder_of_the_operator_holds_what_is_in_the_bundle(tmp_path):
    write_app(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in app_files()} == app_files()


def test_without_a_list_the_installed_bundle_is_accepted_and_with_one_only_what_it_names():
    assert accepted_bundles(Policy()) == (installed_sha256(),)
    check_bundle(Policy(), installed_sha256())
    pinned = Policy(app_sha256=("0" * 64, OTHER))
    check_bundle(pinned, OTHER)
    refusals = [(pinned, text) for text in (installed_sha256(), OTHER[:-1], OTHER.upper())]
    for policy, sha256 in [(Policy(), OTHER), *refusals]:
        with pytest.raises(PolicyError) as refused:
            check_bundle(policy, sha256)
        assert refused.value.key == APP_SHA256
        assert sha256 in str(refused.value)
        assert "fedgrpo server bundle" in str(refused.value)


def test_a_bundle_that_nobody_measured_is_refused_by_every_policy():
    for policy in (Policy(), Policy(app_sha256=(OTHER,))):
        with pytest.raises(PolicyError, match="fedgrpo client supernode"):
            check_bundle(policy, "")


def test_the_learner_checks_the_bundle_that_the_relay_tells_it_of():
    assert told_bundle(Policy(), {"app": installed_sha256()}) == installed_sha256()
    assert told_bundle(Policy(), {}) == ""
    with pytest.raises(PolicyError, match=OTHER):
        told_bundle(Policy(), {"app": OTHER})


@pytest.mark.parametrize("text", ["", "abc", OTHER.upper(), OTHER + "0", " " + OTHER[1:]])
def test_a_hash_in_the_policy_is_64_small_hexadecimal_digits(text):
    with pytest.raises(ConfigError, match="app-sha256"):
        Policy(app_sha256=(OTHER, text))


def asked(own, kind):
    """(a message of this kind, the context that a SuperNode gives with it)."""
    identify_process()
    context = Context(1, 7, {"config-path": str(own.file)}, RecordDict(), settings(own.file.parent).flat())
    return Message(wire.pack({}), 7, kind), context


def header_of(reply):
    return dict(reply.content["header"])


@pytest.mark.parametrize("kind", ["query.ping", "query.join", "train", "evaluate", "query.other", "train.other"])
def test_a_foreign_bundle_gets_one_code_whatever_it_asks_and_the_refusal_is_recorded(tmp_path, kind, caplog):
    own = organisation_file(tmp_path)
    foreign = hashlib.sha256(b"foreign").hexdigest()
    reply = executor.answer("flwr-clientapp", b"foreign", *asked(own, kind))
    assert list(reply.content) == ["header"]
    assert header_of(reply) == {"protocol": wire.PROTOCOL, "error": "policy.app-sha256"}
    assert foreign in caplog.text
    assert installed_sha256() in caplog.text
    (line,) = read_lines(own.egress_record)
    assert (line["answers"], [f["name"] for f in line["fields"]]) == (kind, ["header.protocol", "header.error"])


@pytest.mark.parametrize("program", sorted(set(executor_programs()) - {"flwr-clientapp"}))
def test_our_own_bundle_is_refused_too_where_it_asks_for_another_program(tmp_path, program, caplog):
    own = organisation_file(tmp_path)
    reply = executor.answer(program, installed_bundle(), *asked(own, "query.ping"))
    assert header_of(reply)["error"] == "policy.app-sha256"
    assert program in caplog.text


def test_our_own_bundle_is_answered_and_its_hash_handed_on_but_not_sent_back(tmp_path, monkeypatch):
    own, told = organisation_file(tmp_path), []
    monkeypatch.setattr(executor, "app", lambda message, context: told.append(context) or main.app(message, context))
    message, context = asked(own, "query.ping")
    before = copy.deepcopy(context.node_config)
    reply = executor.answer("flwr-clientapp", installed_bundle(), message, context)
    assert header_of(reply) == {"protocol": wire.PROTOCOL}
    assert [run_bundle(each.node_config) for each in told] == [installed_sha256()]
    assert context.node_config == before
    assert told[0].state is context.state


def test_a_server_cannot_name_the_hash_itself(tmp_path):
    message, context = asked(organisation_file(tmp_path), "query.ping")
    context.run_config = {**context.run_config, APP_SHA256: installed_sha256()}
    assert header_of(main.app(message, context))["error"] == "policy.app-sha256"
    assert header_of(executor.answer("flwr-clientapp", b"", message, context))["error"] == "policy.app-sha256"


def test_where_flower_itself_ran_the_bundle_our_own_stub_refuses(tmp_path, caplog):
    own = organisation_file(tmp_path)
    for kind in ("query.ping", "query.join", "train", "evaluate"):
        assert header_of(main.app(*asked(own, kind)))["error"] == "policy.app-sha256"
    assert "fedgrpo client supernode" in caplog.text


def test_a_node_without_an_organisation_or_with_a_broken_file_answers_with_a_code(tmp_path, caplog):
    own = organisation_file(tmp_path)
    own.file.write_text("[policy]\napp-sha256 = 5\n")
    message, context = asked(own, "query.ping")
    assert header_of(executor.answer("flwr-clientapp", installed_bundle(), message, context))["error"] == "config"
    context.node_config = {}
    assert header_of(executor.answer("flwr-clientapp", installed_bundle(), message, context))["error"] == "config"
    assert "config-path" in caplog.text


def test_every_program_that_flower_may_start_is_ours_and_lies_where_only_its_owner_can_write(tmp_path):
    folder = make_executors(tmp_path / "executors")
    made = {path.name: path for path in folder.iterdir()}
    assert set(made) == {SUPEREXEC, *executor_programs()}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in made.values()} == {0o700}
    for name in executor_programs():
        assert f"-P -m fedgrpo.client.executor {name} " in made[name].read_text()
    assert make_executors(folder) == folder


class EndError(Exception):
    """The process would end here."""


@pytest.fixture
def started(tmp_path, monkeypatch):
    """(options, PATH, which bundles are opened) of each SuperNode that was started."""
    found = []

    def end(status):
        raise EndError(status)

    def run(options, accepts):
        found.append((options, os.environ["PATH"], accepts))

    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.setattr(supernode, "run_supernode", run)
    monkeypatch.setattr(os, "_exit", end)
    return found


def test_a_supernode_finds_only_our_executors_and_ends_when_its_connection_does(tmp_path, started):
    own = organisation_file(tmp_path)
    options = ["--superlink", "fed:8000", "--node-config", f'config-path="{own.file}"']
    with pytest.raises(EndError, match="3"):
        supernode.start(options)
    ((seen, path, accepts),) = started
    assert (seen, path) == (options, str(tmp_path / "executors"))
    assert accepts(installed_bundle())
    assert not accepts(b"foreign")
    organisation_file(tmp_path, policy__app_sha256=[hashlib.sha256(b"foreign").hexdigest()])  # edited while it runs
    assert accepts(b"foreign")
    own.file.unlink()
    assert not accepts(installed_bundle())


@pytest.mark.parametrize("mode", [["--isolation", "process"], ["--isolation=process"], ["--isol=process"]])
def test_a_supernode_that_leaves_the_executing_to_others_is_not_started(mode, tmp_path, started):
    node_config = f'config-path="{organisation_file(tmp_path).file}"'
    with pytest.raises(ConfigError, match="--isolation process"):
        supernode.start(["--insecure", "--node-config", node_config, *mode])
    assert started == []


@pytest.mark.parametrize("node_config", ["partition-id=1", 'config-path="/nowhere.toml"', "config-path=/no quotes"])
def test_a_supernode_without_an_organisation_is_not_started(node_config, started):
    with pytest.raises(ConfigError, match="node-config|nowhere"):
        supernode.start(["--insecure", "--node-config", node_config])
    with pytest.raises(ConfigError, match="--node-config"):
        supernode.start(["--insecure"])
    assert started == []


def test_the_server_knows_the_bundle_of_a_run_and_of_a_simulation_the_installed_one():
    grid = LocalGrid({})
    assert submitted_bundle(grid) == installed_sha256()
    run = copy.copy(grid.run)
    run.fab_hash = OTHER
    grid.set_run(run)
    assert submitted_bundle(grid) == OTHER
