"""Worker processes: one that dies costs its message, and closing does not start what is queued."""

import os
import signal
import threading
import time

import pytest
from fedgrpo.common.flower_private import identify_process, set_message_id
from fedgrpo.common.messages import wire
from fedgrpo.common.settings.run_config import RunConfig
from fedgrpo.simulations.engine.grid import CRASHED, SerializedMessage
from fedgrpo.simulations.engine.worker import ProcessWorker
from flwr.app import Message

pytestmark = pytest.mark.e2e


@pytest.fixture
def worker():
    worker = ProcessWorker({2: {"partition-id": 0, "num-partitions": 4}}, RunConfig().flat())
    yield worker
    worker.close()


def serialized(kind, **header):
    identify_process()
    message = Message(wire.pack(header), 2, kind, ttl=60.0)
    set_message_id(message, "id")
    return SerializedMessage.pack(message, "id")


def test_a_worker_answers_dies_and_is_replaced(worker):
    refused = worker.answer(serialized("query.join", **{"config-sha256": "other"})).open()
    assert wire.header_of(refused.content)["error"] == "task"

    first = worker._process.pid
    threading.Timer(0.1, os.kill, (first, signal.SIGKILL)).start()
    time.sleep(0.5)
    reply = worker.answer(serialized("query.join", **{"config-sha256": "other"})).open()
    assert reply.error.code == CRASHED
    assert reply.metadata.reply_to_message_id == "id"

    assert worker._process.pid != first
    again = worker.answer(serialized("query.join", **{"config-sha256": "other"})).open()
    assert wire.header_of(again.content)["error"] == "task"


def test_a_closed_lane_starts_no_new_worker(worker):
    worker.close()
    process = worker._process
    assert not process.is_alive()
    assert worker.answer(serialized("query.join")).open().error.code == CRASHED
    assert worker._process is process


def test_what_a_client_says_of_its_failure_names_the_client(caplog):
    """Several clients speak through one worker, and the same text could be any of theirs."""
    nodes = {k + 2: {"partition-id": k, "num-partitions": 4} for k in range(2)}
    worker = ProcessWorker(nodes, RunConfig().flat())
    try:
        for node in nodes:
            identify_process()
            message = Message(wire.pack({"config-sha256": "other"}), node, "query.join", ttl=60.0)
            set_message_id(message, "id")
            worker.answer(SerializedMessage.pack(message, "id"))
    finally:
        worker.close()
    said = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert [text.split(":")[0] for text in said] == ["client-0", "client-1"]
    assert "other settings" in said[1]
