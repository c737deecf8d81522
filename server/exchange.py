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
DEATHS = frozenset({"unavailable", "client-crashed"})
"""Codes that Flower, not the client, gives when the process that should have answered is gone."""
AGAIN_PAUSE_S = 3.0
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


class Mailbox:
    """Messages under way to some nodes."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._waiting: dict[str, tuple[int, float]] = {}

    @property
    def nodes(self) -> set[int]:
        """Nodes that have not replied yet."""
        return {node for node, _ in self._waiting.values()}

    def send(self, messages: Mapping[int, RecordDict], kind: str, *, group: str, timeout_s: float) -> None:
        """Send one message to each node. It expires at the deadline: a node works through its queue in order, and
        would do stale work first.
        """
        batch = [
            Message(content, node, kind, ttl=timeout_s, group_id=group)  # a list: Flower refuses a generator
            for node, content in messages.items()
        ]
        deadline = time.monotonic() + timeout_s
        ids = self._grid.push_messages(batch)
        self._waiting |= {i: (node, deadline) for i, node in zip(ids, messages, strict=True)}

    def collect(self) -> Iterator[Reply]:
        """Replies that have come, pulled one at a time so that one is in memory, then the nodes whose time is over."""
        for message_id, (node, _) in list(self._waiting.items()):
            reply = next(iter(self._grid.pull_messages([message_id])), None)  # the first counts, if there are more
            if reply is not None:
                del self._waiting[message_id]
                failed = ERROR_CODES.get(reply.error.code, "failed") if reply.has_error() else ""
                yield Reply(node, None if failed else reply.content, failed)
        now = time.monotonic()
        for message_id, (node, deadline) in list(self._waiting.items()):
            if now >= deadline:
                del self._waiting[message_id]
                yield Reply(node, None, "late")


def exchange(
    grid: Grid,
    messages: Mapping[int, RecordDict],
    kind: str,
    *,
    group: str,
    timeout_s: float,
    again_s: float,
    stopped: Callable[[], None],
) -> Iterator[Reply]:
    """Send one message to each node and yield its reply as it comes; every node yields exactly once.

    A node whose process died is sent the same message again for a while: it may be starting anew, and answers what it
    has done already from its cache. The pause between looks grows with the time waited (one hundredth of it, at most
    0.5 s): polling adds at most a percent to a round.

    Args:
        messages: node id -> content.
        again_s: how long after the first death of a node it is still asked again.
        stopped: raises if the run is to end; called between looks.
    """
    box, start = Mailbox(grid), time.monotonic()
    box.send(messages, kind, group=group, timeout_s=timeout_s)
    first_death: dict[int, float] = {}
    dead: dict[int, float] = {}
    while box.nodes or dead:
        stopped()
        now = time.monotonic()
        for reply in box.collect():
            since = first_death.setdefault(reply.node, now) if reply.code in DEATHS else now
            if reply.code in DEATHS and now - since < again_s and now + AGAIN_PAUSE_S < start + timeout_s:
                dead[reply.node] = now
            else:
                yield reply
        due = [node for node, when in dead.items() if now - when >= AGAIN_PAUSE_S]
        if due:
            left = max(1.0, start + timeout_s - now)
            box.send({node: messages[node] for node in due}, kind, group=group, timeout_s=left)
            dead = {node: when for node, when in dead.items() if node not in due}
        if box.nodes or dead:
            time.sleep(min(MAX_PAUSE_S, 0.01 + (time.monotonic() - start) / 100))
