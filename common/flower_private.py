"""The private names of Flower that this package uses: the only file that imports `flwr.supercore`.

Flower promises nothing about them. `tests/server/test_flower_contract.py` holds what they must do, and `.ci/flower`
runs it with every version of Flower that pyproject.toml allows.
"""

from __future__ import annotations

from flwr.app import Message
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

__all__ = ["Run", "get_all_nested_objects", "identify_process", "inflate_object_from_contents", "set_message_id"]


def identify_process() -> None:
    """Give this process the identity without which Flower makes no message."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1


def set_message_id(message: Message, message_id: str) -> None:
    """Write the id that otherwise the SuperLink assigns."""
    message.metadata.__dict__["_message_id"] = message_id
