"""Messages out, replies in, one at a time. With `main.py` the only server file that knows Flower's grid."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from ..common.errors import PeerFailedError

ERROR_CODES = {
    1: "load-failed",
    2: "client-raised",
    3: "late",
    5: "unavailable",
    7: "app-refused",
    8: "client-crashed",
}
MAX_PAUSE_S = 0.5


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back from a node: content, or the code of a failure."""

    node: int
    content: RecordDict | None
    code: str = ""

    def opened(self) -> RecordDict:
        """The content.

        Raises:
            PeerFailedError: the node failed or did not reply in time.
        """
        if self.content is None:
            raise PeerFailedError(self.code, "no reply within the deadline" if self.code == "late" else "it failed")
        return self.content


def exchange(
    grid: Grid,
    messages: Mapping[int, RecordDict],
    kind: str,
    *,
    group: str,
    timeout_s: float,
    stopped: Callable[[], None],
) -> Iterator[Reply]:
    """Send one message to each node and yield its reply as it comes; every node yields exactly once.

    Messages expire at the deadline, since a node works through its queue in order and would do stale work first.
    Replies are pulled one at a time, so at most one is in memory. The pause between sweeps grows with the time waited
    (one hundredth of it, at most 0.5 s): polling adds at most a percent to a round.

    Args:
        messages: node id -> content.
        stopped: raises if the run is to end; called between sweeps.
    """
    batch = [
        Message(content, node, kind, ttl=timeout_s, group_id=group)  # a list: Flower refuses a generator
        for node, content in messages.items()
    ]
    start = time.monotonic()
    waiting = dict(zip(grid.push_messages(batch), messages, strict=True))
    while waiting and time.monotonic() - start < timeout_s:
        stopped()
        for message_id in list(waiting):
            for reply in grid.pull_messages([message_id]):
                node = waiting.pop(message_id)
                failed = ERROR_CODES.get(reply.error.code, "failed") if reply.has_error() else ""
                yield Reply(node, None if failed else reply.content, failed)
        if waiting:
            time.sleep(min(MAX_PAUSE_S, 0.01 + (time.monotonic() - start) / 100))
    for node in waiting.values():
        yield Reply(node, None, "late")
