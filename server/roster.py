"""Who takes part: which node is which organisation, what each can do, and who has to sit out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from flwr.serverapp import Grid

from ..common import wire
from ..common.adapter import AdapterSchema
from ..common.config import RunConfig
from ..common.errors import PeerFailedError, ProtocolError, RunError
from ..common.protocol import TRAINS, Capabilities
from ..common.seeds import derived_seed
from .events import Joined, NotJoined, emit
from .exchange import exchange
from .intake import read_capabilities

JOIN_PAUSE_S = 1.0


@dataclass(slots=True)
class Roster:
    """The organisations that have joined. All of them mean the same vector by an adapter."""

    config: RunConfig
    members: dict[str, Capabilities] = field(default_factory=dict[str, Capabilities])
    nodes: dict[str, int] = field(default_factory=dict[str, int])
    strikes: Counter[str] = field(default_factory=Counter[str])
    refusals: dict[str, str] = field(default_factory=dict[str, str])
    """Why an organisation's last reply was refused: told to it with its next task."""
    _asked: set[int] = field(default_factory=set[int])

    def gather(self, grid: Grid, schema: AdapterSchema | None, stopped: Callable[[], None]) -> AdapterSchema:
        """Wait until enough clients have joined, and return the adapter schema they agree on.

        Args:
            schema: what a resumed run already trains; None lets the first answers decide by majority.

        Raises:
            RunError: too few clients joined in time; says who came and why others could not.
        """
        wanted, limit = self.config.federation.min_clients, self.config.federation.join_timeout_s
        deadline = time.monotonic() + limit
        reasons: list[str] = []
        while True:
            agreed, refused = self._ask_new_nodes(grid, schema, stopped)
            schema = agreed or schema
            reasons += refused
            if schema is not None and len(self.members) >= wanted:
                return schema
            if time.monotonic() >= deadline or (reasons and len(self._asked) >= wanted and not self.members):
                came = f"{len(self.members)} of the {wanted} clients needed have joined within {limit:g} s."
                raise RunError(" ".join([came, *dict.fromkeys(reasons)]))
            stopped()
            time.sleep(JOIN_PAUSE_S)

    def welcome(self, grid: Grid, schema: AdapterSchema, stopped: Callable[[], None]) -> None:
        """Let clients join that came after the beginning."""
        self._ask_new_nodes(grid, schema, stopped)

    def cohort(self, round_number: int) -> tuple[str, ...]:
        """The organisations of one round, sorted: all that may take part, or a draw of them."""
        able = sorted(n for n in self.members if self.strikes[n] < self.config.federation.max_strikes)
        size = self.config.federation.clients_per_round
        if not size or size >= len(able):
            return tuple(able)
        generator = np.random.default_rng(derived_seed(self.config.federation.seed, "cohort", round_number))
        return tuple(sorted(generator.choice(able, size, replace=False).tolist()))

    def refuse(self, organisation: str, error: ProtocolError) -> None:
        """Note a reply that was refused. One that failed to come is no strike: nothing wrong was sent."""
        if not isinstance(error, PeerFailedError):
            self.refusals[organisation] = error.code
            self.strikes[organisation] += 1

    def _ask_new_nodes(
        self, grid: Grid, schema: AdapterSchema | None, stopped: Callable[[], None]
    ) -> tuple[AdapterSchema | None, list[str]]:
        present = set(grid.get_node_ids())
        for name in [n for n, node in self.nodes.items() if node not in present]:
            self._leave(name)
        self._asked &= present
        new = sorted(present - self._asked)
        self._asked.update(new)
        question = wire.pack({"config-sha256": self.config.sha256})
        timeout = self.config.federation.join_timeout_s
        answers: dict[int, Capabilities] = {}
        reasons: list[str] = []
        for reply in exchange(
            grid, dict.fromkeys(new, question), "query.join", group="join", timeout_s=timeout, stopped=stopped
        ):
            try:
                answers[reply.node] = read_capabilities(reply.opened())
            except ProtocolError as error:
                reasons.append(f"Node {reply.node} cannot take part ({error.code}).")
                emit(NotJoined(reply.node, f"{error.code}: {error}"))
        schema = schema or self._majority(answers)
        if schema is not None:
            reasons += [reason for node in sorted(answers) if (reason := self._admit(node, answers[node], schema))]
        return schema, reasons

    def _majority(self, answers: dict[int, Capabilities]) -> AdapterSchema | None:
        ours = [
            a.schema
            for _, a in sorted(answers.items())
            if a.schema.trains == TRAINS[self.config.aggregation.method]
            and (a.schema.rank, a.schema.alpha) == (self.config.adapter.rank, self.config.adapter.alpha)
            and a.schema.seed == self.config.federation.seed
        ]
        counts = Counter(schema.sha256 for schema in ours)
        return max(ours, key=lambda schema: (counts[schema.sha256], schema.sha256)) if ours else None

    def _admit(self, node: int, member: Capabilities, schema: AdapterSchema) -> str:
        name = member.organisation
        bases = Counter(m.base_model_sha256 for m in self.members.values())
        if member.schema.sha256 != schema.sha256:
            reason = "its adapter has other layers or shapes than the federation's: another model or settings"
        elif bases and member.base_model_sha256 not in bases:
            reason = "its base model has other weights than the federation's"
        elif name in self.nodes:
            reason = f"node {self.nodes[name]} already takes part as {name}"
        else:
            self.members[name], self.nodes[name] = member, node
            emit(Joined(name, member.examples, member.prompts_too_long))
            return ""
        emit(NotJoined(node, reason))
        return f"Node {node} ({name}) was turned away: {reason}."

    def _leave(self, name: str) -> None:
        node = self.nodes.pop(name)
        del self.members[name]
        self._asked.discard(node)
