"""The Runtime API of a SuperNode, with Flower's own state behind it, and runs put there as its Fleet worker does.

What an executor asks and answers is then Flower's own protocol over HTTP, without a SuperLink.
"""

from __future__ import annotations

import hashlib
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

import uvicorn
from fedgrpo.common import __version__
from fedgrpo.common.cli.ports import free_ports
from fedgrpo.common.flower_private import Run, identify_process, inflate_object_from_contents
from fedgrpo.common.messages import wire
from flwr.app import Context, Message, RecordDict
from flwr.supernode.main import create_app
from flwr.supernode.nodestate import NodeStateFactory

supernode = import_module("flwr.supernode.cli.flower_supernode")
fleet_worker = import_module("flwr.supernode.start_client_internal")
NODE = 7
CLIENT_APP, AGENT_APP = "flwr-clientapp", "flwr-agentapp"


@dataclass
class Node:
    """A SuperNode that has received what a test puts into it."""

    address: str
    node_config: dict[str, Any]
    factory: Any
    replies: dict[int, Message] = field(default_factory=dict)
    """By run."""

    @property
    def state(self) -> Any:
        return self.factory.state()

    def receive(self, run_id, bundle, *, kind="query.ping", task=CLIENT_APP, fab_id="fedgrpo/fedgrpo", named=""):
        """Take in a message of a run, with the bundle that the server sent.

        Args:
            named: the hash that the server says the bundle has, if not its own.
        """
        identify_process()
        sha256 = named or hashlib.sha256(bundle).hexdigest()
        run = replace(
            Run.create_empty(run_id), fab_id=fab_id, fab_version=__version__, fab_hash=sha256, series_id=run_id
        )
        context = Context(run_id, NODE, dict(self.node_config), RecordDict(), {}, series_id=run_id)
        self.state.store_run(run)
        self.state.fab_store[sha256] = fleet_worker.Fab(sha256, bundle, {})
        self.state.set_run_series_context(run_id, context)
        message = Message(wire.pack({"config-sha256": "0" * 64}), NODE, kind, ttl=600.0)
        message.metadata.__dict__.update(_run_id=run_id, _src_node_id=1)
        fleet_worker._insert_message(message, self.state, self.state.object_store)
        self.state.create_task(task_type=task, run_id=run_id, fab_hash=sha256)

    def header(self, run_id: int, seconds: float) -> dict[str, Any]:
        """The header of the reply to a run's message; of an error of Flower's, its code and reason."""
        end = time.monotonic() + seconds
        while True:
            for message in self.state.get_messages_legacy(is_reply=True):
                self.replies[message.metadata.run_id] = message
            if run_id in self.replies and (content := self._content(self.replies[run_id])) is not None:
                return content
            assert time.monotonic() < end, f"no reply to the message of run {run_id} within {seconds} s"
            time.sleep(0.05)

    def _content(self, message: Message) -> dict[str, Any] | None:
        """A reply's header, once all of its pieces have been pushed."""
        if message.has_error():
            return {"flower": message.error.code, "reason": message.error.reason}
        store, message_id = self.state.object_store, message.metadata.message_id
        ids = [tree.object_id for tree in fleet_worker.iterate_object_tree(store.get_object_tree(message_id))]
        pieces = {piece: store.get(piece) for piece in ids}
        if not all(pieces.values()):
            return None
        return dict(inflate_object_from_contents(message_id, pieces).content["header"])


@contextmanager
def runtime_api(node_config):
    """A `Node` whose Runtime API listens on a port of this machine."""
    factory = NodeStateFactory(objectstore_factory=supernode.ObjectStoreFactory())
    factory.state().set_node_id(NODE)
    (port,) = free_ports(1)
    config = uvicorn.Config(create_app(factory), host="127.0.0.1", port=port, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield Node(f"127.0.0.1:{port}", node_config, factory)
    finally:
        server.should_exit = True
        thread.join()
