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
