"""Messages out, replies in, one at a time. With `main.py` the only server file that knows Flower's grid."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from flwr.app import ArrayRecord, Message, RecordDict
from flwr.serverapp import Grid

from ...common.adapter.adapter import Adapter
from ...common.adapter.schema import AdapterSchema
from ...common.errors import PeerFailedError
from ...common.foreign import safe_logger
from ...common.messages import wire
from ...common.settings.federation import Federation
from .audited import Audited

LOGGER = safe_logger("fedgrpo.federation")
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
    """A node's reply: content, or the code of a failure."""

    node: int
    content: RecordDict | None
    code: str = ""

    def opened(self) -> RecordDict:
        """Return the content.

        Raises:
            PeerFailedError: the node failed or did not reply in time.
        """
        if self.content is None:
            raise PeerFailedError(self.code, "no reply within the deadline" if self.code == "late" else "it failed")
        return self.content


class InFlight:
    """Messages that are waiting for replies."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._waiting: dict[str, tuple[int, float]] = {}

    @property
    def nodes(self) -> set[int]:
        """Return the nodes that have not replied yet."""
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

    def forget(self, node: int) -> None:
        """Stop waiting for a node's replies."""
        self._waiting = {i: (n, deadline) for i, (n, deadline) in self._waiting.items() if n != node}

    def collect(self) -> Iterator[Reply]:
        """Yield the replies that have arrived, pulled one at a time to bound memory, then the nodes that are late."""
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


class EncodedAdapter:
    """A global adapter as it is sent: encoded once for all clients of the same rank."""

    def __init__(self, adapter: Adapter, codec: str) -> None:
        self._adapter, self._codec = adapter, codec
        self._arrays: dict[str, ArrayRecord] = {}

    def at(self, schema: AdapterSchema) -> ArrayRecord:
        """Return the array for a client with this schema."""
        if schema.sha256 not in self._arrays:
            self._arrays[schema.sha256] = wire.packed(self._adapter.fitted(schema).vector, self._codec)
        return self._arrays[schema.sha256]


@dataclass(frozen=True, slots=True)
class ClientCalls:
    """Sends messages to clients and waits for their replies, as long as the run's settings allow."""

    grid: Grid
    settings: Federation
    stopped: Callable[[], None]
    """Raises if the run is to end. Called while waiting."""
    audited: Audited | None = None
    """The round log, which travels with some messages."""

    def ask(
        self, messages: Mapping[int, RecordDict], kind: str, group: str, *, timeout_s: float = 0.0
    ) -> Iterator[Reply]:
        """Send one message to each node and yield its reply as it comes (`exchange`).

        Args:
            timeout_s: 0 waits for federation.round-timeout-s.
        """
        replies = exchange(
            self.grid,
            self.audited.sent(messages, kind) if self.audited else messages,
            kind,
            group=group,
            timeout_s=timeout_s or self.settings.round_timeout_s,
            again_s=self.settings.ask_again_s,
            stopped=self.stopped,
        )
        return map(self._without_signature, replies)

    def _without_signature(self, reply: Reply) -> Reply:
        """Return a reply without the signature of the round log in it; one whose signature is wrong does not count."""
        if self.audited is None or reply.content is None:
            return reply
        complaint = self.audited.take(reply.node, reply.content)
        if complaint:
            LOGGER.warning("node %s: %s", reply.node, complaint)
        return Reply(reply.node, None, "audit-signature") if complaint else reply


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

    The pause between looks grows with the time waited (one hundredth of it, at most 0.5 s): polling adds at most a
    percent to a round.

    Args:
        messages: node id -> content.
        again_s: after how long a silent node is asked whether it still works on the message, and for how long one whose
            process died is asked again (`_Resender`).
        stopped: raises if the run is to end; called between looks.
    """
    start = time.monotonic()
    box = _Resender(grid, messages, kind, group=group, deadline=start + timeout_s, again_s=again_s)
    while box.waits:
        stopped()
        yield from box.collect()
        if box.waits:
            time.sleep(min(MAX_PAUSE_S, 0.01 + (time.monotonic() - start) / 100))


class _Resender:
    """One message to each of some nodes, resent if it or its reply was lost.

    A repeated message costs a client nothing: its learner knows what was asked and answers from its cache.

    - A node whose process died is sent the message again: it may be starting anew.
    - A reply can be lost without a word, when the SuperLink dies while it comes in. A node does one message at a time,
      so one that answers a ping and has not replied never will, and is sent the message again.
    """

    def __init__(
        self,
        grid: Grid,
        messages: Mapping[int, RecordDict],
        kind: str,
        *,
        group: str,
        deadline: float,
        again_s: float,
    ) -> None:
        self._messages, self._kind, self._group = messages, kind, group
        self._deadline, self._again_s = deadline, again_s
        self._box, self._pings = InFlight(grid), InFlight(grid)
        self._asked = dict.fromkeys(messages, time.monotonic())
        self._first_death: dict[int, float] = {}
        self._dead: dict[int, float] = {}
        self._send(messages)

    @property
    def waits(self) -> bool:
        """Return whether a node has not replied yet."""
        return bool(self._box.nodes or self._dead)

    def collect(self) -> Iterator[Reply]:
        """Yield the replies that have arrived, and resend messages that were lost."""
        now = time.monotonic()
        for reply in self._box.collect():
            if self._may_come_back(reply, now):
                self._dead[reply.node] = now
            else:
                yield reply
        due = [node for node, when in self._dead.items() if now - when >= AGAIN_PAUSE_S]
        self._dead = {node: when for node, when in self._dead.items() if node not in due}
        self._send(due)
        self._send(list(self._lost(now)))

    def _may_come_back(self, reply: Reply, now: float) -> bool:
        if reply.code not in DEATHS or now + AGAIN_PAUSE_S >= self._deadline:
            return False
        return now - self._first_death.setdefault(reply.node, now) < self._again_s

    def _lost(self, now: float) -> Iterator[int]:
        """Yield nodes that answered a ping and so are not working on a message; ping those that are silent for long."""
        for pong in self._pings.collect():
            if pong.content is not None and pong.node in self._box.nodes:
                self._box.forget(pong.node)
                yield pong.node
        silent = [n for n in self._box.nodes - self._pings.nodes if now - self._asked[n] > self._again_s > 0]
        if silent:
            self._asked |= dict.fromkeys(silent, now)
            ping = wire.pack({})
            self._pings.send(dict.fromkeys(silent, ping), "query.ping", group=self._group, timeout_s=self._again_s)

    def _send(self, nodes: Iterable[int]) -> None:
        now = time.monotonic()
        batch = {node: self._messages[node] for node in nodes}
        if batch:
            self._asked |= dict.fromkeys(batch, now)
            self._box.send(batch, self._kind, group=self._group, timeout_s=max(1.0, self._deadline - now))
