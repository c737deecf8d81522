"""The steps of a sum: what is asked of whom, and how replies are taken."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from flwr.app import RecordDict

from ...common.errors import ProtocolError
from ...common.messages import wire
from ...common.messages.messages import TaskId
from ...common.secagg.layout import Layout
from ...common.secagg.statements import Context
from ..run import events
from ..run.events import emit
from ..secagg.sum_state import SumState
from .exchange import ClientCalls, Reply
from .roster import Roster

Take = Callable[[str, RecordDict], None]


class SumFailedError(ProtocolError):
    """Too few members are left: nothing of the sum can be known."""


class SumUnopenedError(SumFailedError):
    """Too few members have opened a sum on whose survivors enough agreed. It has to be asked for again: those that
    opened it refuse any other sum of the round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is added up."""

    label: str
    """Name of the sum's folder: unique within the run."""
    context: Context
    """But for the code that the clients run, which only they know."""
    layout: Layout
    tasks: Mapping[str, RecordDict]
    """The first message to each member of the cohort."""
    task_ids: Mapping[str, TaskId]
    """What a member's reply to it repeats."""
    needed: int
    """Fewest members of the sum."""
    config_sha256: str
    """Of the run's settings, which every message names."""


@dataclass(slots=True)
class SumSteps:
    """Sends a sum's messages to its members, one step after the other, and notes who failed."""

    calls: ClientCalls
    roster: Roster
    step_timeout_s: float
    refused: dict[str, str] = field(default_factory=dict[str, str])
    """Organisation -> code, of the sum under way."""

    def step(
        self, step: str, question: Question, state: SumState, messages: Mapping[str, RecordDict], take: Take
    ) -> None:
        """Send each member its message, and take the replies as they come; one that is wrong is refused alone."""
        start, first = time.monotonic(), step == question.context.kind
        names = {self.roster.nodes[name]: name for name in messages if name in self.roster.nodes}
        for name in messages.keys() - set(names.values()):
            self._refuse(question, name, "unavailable", "it is not connected")
        contents = {node: messages[name] for node, name in names.items()}
        state.bytes_down += sum(wire.wire_bytes(content) for content in contents.values())
        kind, timeout = (step, 0.0) if first else ("query.secagg", self.step_timeout_s)
        for reply in self.calls.ask(contents, kind, f"{question.label}.{step}", timeout_s=timeout):
            self._take(question, names[reply.node], reply, take, state)
        state.seconds[step] = round(state.seconds.get(step, 0.0) + time.monotonic() - start, 3)

    def check_enough(self, members: Iterable[str], needed: int) -> None:
        """Check that enough members are left.

        Raises:
            SumFailedError: they are not.
        """
        count = len(set(members))
        if count < needed:
            detail = ", ".join(f"{name} {code}" for name, code in sorted(self.refused.items()))
            raise SumFailedError("secagg.members", f"only {count} members are left, {needed} are needed: {detail}")

    def _take(self, question: Question, name: str, reply: Reply, take: Take, state: SumState) -> None:
        try:
            content = reply.opened()
            take(name, content)
            state.bytes_up += wire.wire_bytes(content)
        except ProtocolError as error:
            self.roster.refuse(name, error)
            self._refuse(question, name, error.code, str(error))

    def _refuse(self, question: Question, name: str, code: str, reason: str) -> None:
        self.refused[name] = code
        emit(events.UpdateRefused(question.context.round, name, code, reason))
