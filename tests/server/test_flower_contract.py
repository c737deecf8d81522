"""The private names of Flower that the in-process grid, the byte count and the executor rely on."""

import hashlib
from dataclasses import replace
from importlib.metadata import entry_points

import numpy as np
import pytest
from fedgrpo.common.errors import ProtocolError
from fedgrpo.common.flower_private import (
    Run,
    executor_programs,
    get_all_nested_objects,
    identify_process,
    run_client_app,
    run_supernode,
    set_message_id,
)
from fedgrpo.common.messages import wire
from fedgrpo.common.settings.bundle import installed_bundle
from fedgrpo.common.settings.run_config import RunConfig
from fedgrpo.server.operator.server_folder import Gateway, write_app
from fedgrpo.simulations.engine.grid import SerializedMessage
from flwr.app import Message
from flwr.cli.build import build_fab_from_disk
from flwr.supernode import cli
from flwr.supernode import start_client_internal as worker
from flwr.supernode.runtime import run_clientapp


def message(vector):
    identify_process()
    return Message(wire.pack({"round": 3}, array=wire.packed(vector)), 7, "train", ttl=60.0, group_id="3.1")


def test_a_message_survives_the_wire_and_shares_nothing():
    vector = np.arange(2_000_000, dtype=np.float32)  # 8 MB: more than one of Flower's chunks
    sent = message(vector)
    set_message_id(sent, "id-1")
    got = SerializedMessage.pack(sent, "id-1").open()
    assert got.metadata.message_id == "id-1"
    assert (got.metadata.dst_node_id, got.metadata.group_id, got.metadata.message_type) == (7, "3.1", "train")
    assert wire.header_of(got.content) == {"protocol": wire.PROTOCOL, "round": 3}
    assert (wire.vector_of(got.content, vector.size) == vector).all()
    assert got.content is not sent.content


def test_a_reply_finds_its_message():
    asked = SerializedMessage.pack(message(np.zeros(3, np.float32)), "id-2").open()
    reply = SerializedMessage.pack(Message(wire.pack({"ok": True}), reply_to=asked), "id-3").open()
    assert reply.metadata.reply_to_message_id == "id-2"


def test_the_byte_count_is_the_payload_plus_little():
    vector = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
    size = wire.wire_bytes(wire.pack({"round": 3}, array=wire.packed(vector)))
    assert 400_000 < size < 402_000


def test_a_message_of_another_protocol_is_refused():
    content = wire.pack({"round": 1})
    content["header"]["protocol"] = 99
    with pytest.raises(ProtocolError, match=f"protocol {wire.PROTOCOL}"):
        wire.header_of(content)


def test_no_request_of_a_real_adapter_reaches_the_gateways_least_cap():
    vector = np.random.default_rng(0).normal(size=19_500_000 // 4).astype(np.float32)  # SmolLM2 at rank 16
    pieces = get_all_nested_objects(message(vector))
    largest = max(len(piece.deflate()) for piece in pieces.values())
    least = 6  # MB: what gateway.max-body-mb may be at least
    assert Gateway(hosts=("fed.example.org",), max_body_mb=least)
    assert 5e6 < largest < least * 1e6


def test_flower_builds_the_bundle_that_an_organisation_expects(tmp_path):
    assert build_fab_from_disk(write_app(tmp_path / "app")) == installed_bundle()


def test_every_program_that_flower_starts_for_a_task_is_known():
    installed = {entry.name for entry in entry_points(group="console_scripts") if entry.value.startswith("flwr.")}
    assert {name for name in installed if name.startswith("flwr-")} == set(executor_programs())
    assert "flower-superexec" in installed


@pytest.mark.parametrize("name", ["pull_task_input", "install_from_fab", "get_load_client_app_fn"])
def test_an_executor_without_one_of_the_replaced_names_asks_for_nothing(name, monkeypatch):
    monkeypatch.delattr(run_clientapp, name)
    monkeypatch.setattr(run_clientapp, "run_clientapp", lambda **_: pytest.fail("it was started"))
    with pytest.raises(AttributeError, match=name):
        run_client_app(["--token", "t", "--insecure"], lambda *_: pytest.fail("it was asked"))


def test_a_supernode_opens_the_bundles_that_are_accepted_and_no_others(monkeypatch):
    monkeypatch.setattr(cli, "flower_supernode", lambda: None)
    monkeypatch.setattr(worker, "get_fused_config_from_fab", worker.get_fused_config_from_fab)
    monkeypatch.setattr("sys.argv", [])
    run_supernode([], lambda bundle: bundle == installed_bundle())
    settings_of = worker.get_fused_config_from_fab
    overrides = {"grpo.beta": 0.5}

    def run_of(bundle):
        return replace(Run.create_empty(1), fab_hash=hashlib.sha256(bundle).hexdigest(), override_config=overrides)

    assert settings_of(installed_bundle(), run_of(installed_bundle())) == {**RunConfig().flat(), **overrides}
    assert settings_of(b"no zip file", run_of(b"no zip file")) == overrides
    with pytest.raises(ValueError, match="not the one that it names"):
        settings_of(b"another", run_of(installed_bundle()))
