"""The private names of Flower that the in-process grid and the byte count rely on."""

import numpy as np
import pytest
from fedgrpo.common.errors import ProtocolError
from fedgrpo.common.flower_private import get_all_nested_objects, identify_process, set_message_id
from fedgrpo.common.messages import wire
from fedgrpo.server.operator.server_folder import Gateway
from fedgrpo.simulations.engine.grid import SerializedMessage
from flwr.app import Message


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
