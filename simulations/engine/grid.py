"""An in-process Flower grid: real ServerApp, real ClientApp, serialised messages, no network.

Each simulated node belongs to one worker, and a worker handles one message at a time, as a SuperNode does. A worker is
this process (`LocalWorker`, for tests and one core) or a separate process (`worker.ProcessWorker`).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from ...common.flower_private import (
    Run,
    get_all_nested_objects,
    identify_process,
    inflate_object_from_contents,
    set_message_id,
)

RAISED, EXPIRED, CRASHED = 2, 3, 8  # Flower's error codes
NodeConfig = dict[str, int | float | str | bool]


@dataclass(frozen=True, slots=True)
class SerializedMessage:
    """A serialised message as it would cross the network, with the id that the SuperLink stores beside it."""

    message_id: str
    root: str
    objects: dict[str, bytes]
    node: int
    expires_at: float

    @classmethod
    def pack(cls, message: Message, message_id: str) -> SerializedMessage:
        """Serialise a message."""
        objects = {key: item.deflate() for key, item in get_all_nested_objects(message).items()}
        metadata = message.metadata
        return cls(message_id, message.object_id, objects, metadata.dst_node_id, metadata.created_at + metadata.ttl)

    def open(self) -> Message:
        """Return the message, which shares nothing with the one that was packed."""
        message = inflate_object_from_contents(self.root, dict(self.objects))
        assert isinstance(message, Message)
        set_message_id(message, self.message_id)
        return message


class Worker(Protocol):
    """Something that answers the messages of some nodes, one at a time."""

    def answer(self, serialized: SerializedMessage) -> SerializedMessage:
        """Return the reply to a message; a failure of the client is a reply too."""
        ...

    def close(self) -> None:
        """Free what the worker holds."""
        ...


class LocalWorker:
    """A worker in this process, on a ClientApp."""

    def __init__(
        self, app: ClientApp, node_configs: Mapping[int, NodeConfig], run_config: Mapping[str, object]
    ) -> None:
        self._app = app
        self._contexts = {
            node: Context(1, node, dict(config), RecordDict(), dict(run_config))  # pyright: ignore[reportArgumentType]
            for node, config in node_configs.items()
        }

    def answer(self, serialized: SerializedMessage) -> SerializedMessage:
        """Let the ClientApp answer a message."""
        message = serialized.open()
        if time.time() > serialized.expires_at:
            return SerializedMessage.pack(Message(Error(EXPIRED, "the message expired"), reply_to=message), "")
        try:
            reply = self._app(message, self._contexts[serialized.node])
        except Exception as error:  # what Flower does with an exception of a ClientApp
            reply = Message(Error(RAISED, repr(error)), reply_to=message)
        return SerializedMessage.pack(reply, uuid.uuid4().hex)

    def close(self) -> None:
        """Do nothing: there is nothing to free."""


class LocalGrid(Grid):
    """The transport of messages between the ServerApp and the workers."""

    def __init__(self, workers: Mapping[int, Worker]) -> None:
        """Start a thread per worker.

        Args:
            workers: node id -> the worker that answers its messages; several nodes may share one.
        """
        identify_process()
        self._workers = dict(workers)
        distinct: Sequence[Worker] = list({id(worker): worker for worker in workers.values()}.values())
        self._pools = {id(worker): ThreadPoolExecutor(1) for worker in distinct}
        self._distinct = distinct
        self._waiting: dict[str, Future[SerializedMessage]] = {}
        self._run = Run.create_empty(0)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Pass messages to their workers, and return their ids."""
        ids: list[str] = []
        for message in messages:
            message_id = uuid.uuid4().hex
            set_message_id(message, message_id)
            worker = self._workers[message.metadata.dst_node_id]
            serialized = SerializedMessage.pack(message, message_id)
            self._waiting[message_id] = self._pools[id(worker)].submit(worker.answer, serialized)
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that have arrived; each is returned once."""
        ready = [i for i in message_ids if i in self._waiting and self._waiting[i].done()]
        return [self._waiting.pop(i).result().open() for i in ready]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send messages, and wait for the replies."""
        waiting = self.push_messages(messages)
        end = time.monotonic() + (timeout if timeout is not None else float("inf"))
        replies: list[Message] = []
        while len(replies) < len(waiting) and time.monotonic() < end:
            replies += self.pull_messages(waiting)
            time.sleep(0.005)
        return replies

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Create a message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Return the ids of all simulated nodes."""
        return sorted(self._workers)

    def set_run(self, run: Run) -> None:
        """Store the run record, as Flower's interface asks."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run record; an empty one, as of a run without a bundle, unless another was set."""
        return self._run

    def close(self) -> None:
        """End the workers without waiting for messages in progress."""
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)  # first, or a worker would continue with queued messages
        for worker in self._distinct:
            worker.close()
