"""The clients of a federation: which node is which organisation, what each can do, and which ones sit out.

Nodes are asked to join as they appear, and once the federation has begun nobody waits for one that is silent. It begins
when the clients expected have answered and more than half of the answers mean the same adapter on the same base model;
from then on that is what a client must have.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from flwr.serverapp import Grid

from ...common.adapter.schema import AdapterSchema
from ...common.aggregation.weights import WEIGHTS
from ...common.errors import ConfigError, PeerFailedError, ProtocolError, RunError
from ...common.messages import wire
from ...common.messages.messages import Capabilities, JoinRequest, run_schema
from ...common.seeds import derived_seed
from ...common.settings.run_config import RunConfig
from ..run.events import Joined, NotJoined, TooFewClients, emit
from ..run.lines import parsed, read_typed
from .exchange import InFlight
from .intake import read_capabilities

PAUSE_S = 0.1
LONGEST_JOIN_S = 300.0
"""A node that has not answered for this long, because it loads its model or its answer was lost, is asked again."""
ASK_AGAIN_S = 30.0
"""A node that could not join, or was rejected, is asked again after this long."""


@dataclass(frozen=True, slots=True)
class Terms:
    """The adapter and the base model that all clients share."""

    schema: AdapterSchema
    base_model_sha256: str


@dataclass(frozen=True, slots=True)
class RegisteredNode:
    """A line of the file that `fedgrpo keys register` writes."""

    node: int
    organisation: str


def read_nodes(path: Path) -> dict[int, str]:
    """Return the organisation of each registered node, from the file that `fedgrpo keys register` writes."""
    return {line.node: line.organisation for line in read_typed(path, lambda entry: parsed(RegisteredNode, entry))}


class Roster:
    """The organisations that have joined, and their nodes."""

    def __init__(self, grid: Grid, config: RunConfig, terms: Terms | None, strikes: dict[str, int]) -> None:
        """`terms` and `strikes` of a resumed run; a new one has neither."""
        self.clients: dict[str, Capabilities] = {}
        self.nodes: dict[str, int] = {}
        self.refusals: dict[str, str] = {}
        self.strikes = Counter(strikes)
        self._grid, self._config, self._terms = grid, config, terms
        self._box = InFlight(grid)
        self._present: set[int] = set()
        self._answers: dict[int, Capabilities] = {}
        self._asked_at: dict[int, float] = {}
        self._reasons: dict[int, str] = {}
        self._nodes_file = Path(config.output.nodes) if config.output.nodes else None

    def gather(self, stopped: Callable[[], None]) -> Terms:
        """Wait until the clients that are expected have joined, and return what they agree on.

        Begins with fewer, but never with fewer than `min-clients`, when the rest cannot join or the time is over.

        Raises:
            RunError: too few joined in time, or all that are there have failed; says who came and why others could not.
        """
        settings = self._config.federation
        deadline = time.monotonic() + settings.join_timeout_s
        while True:
            self.welcome()
            late = time.monotonic() >= deadline
            if late or self._everybody_answered():
                if self._terms is None and len(self._answers) >= settings.min_clients:
                    self._terms = self._majority()
                    self._admit_all()
                if self._terms is not None and len(self.clients) >= settings.min_clients:
                    return self._terms
            failed = len(self._reasons.keys() & self._present)
            all_failed = failed >= settings.min_clients and not (self._answers or self._box.nodes or self.clients)
            if late or all_failed:
                raise RunError(self._who_is_missing())
            stopped()
            time.sleep(PAUSE_S)

    def wait_for_enough(self, stopped: Callable[[], None]) -> bool:
        """Wait until `min-clients` are connected, for at most `join-timeout-s`; returns whether they are.

        Does not wait for a client that sits out because of its strikes: it will not come back.
        """
        needed = self._config.federation.min_clients
        deadline = time.monotonic() + self._config.federation.join_timeout_s
        self.welcome()
        if len(self.clients) < needed:
            emit(TooFewClients(len(self.clients), needed, self._config.federation.join_timeout_s))
        while len(self.clients) < needed and time.monotonic() < deadline:
            stopped()
            time.sleep(PAUSE_S)
            self.welcome()
        return len(self.clients) >= needed

    def welcome(self) -> None:
        """Ask new nodes, admit those that have answered, and drop those that left. Never waits."""
        self._present = set(self._grid.get_node_ids())
        for name in [name for name, node in self.nodes.items() if node not in self._present]:
            del self.nodes[name], self.clients[name]
        for node in self._asked_at.keys() - self._present:
            del self._asked_at[node]  # when it comes back it is asked at once
        now = time.monotonic()
        due = [n for n in sorted(self._present) if self._is_due(n, now)]
        self._asked_at |= dict.fromkeys(due, now)
        question = wire.record_of(JoinRequest(config_sha256=self._config.sha256))
        timeout = min(max(1.0, self._config.federation.join_timeout_s), LONGEST_JOIN_S)
        if due:
            self._box.send(dict.fromkeys(due, question), "query.join", group="join", timeout_s=timeout)
        for reply in self._box.collect():
            try:
                self._answers[reply.node] = read_capabilities(reply.opened())
            except ProtocolError as error:
                self._turn_away(reply.node, f"{error.code}: {error}")
        self._admit_all()

    def cohort(self, round_number: int) -> tuple[str, ...]:
        """Return the organisations of one round, sorted: all that may take part, or a random subset."""
        able = self.able()
        size = self._config.federation.clients_per_round
        if not size or size >= len(able):
            return able
        generator = np.random.default_rng(derived_seed(self._config.federation.seed, "cohort", round_number))
        return tuple(sorted(generator.choice(able, size, replace=False).tolist()))

    def able(self) -> tuple[str, ...]:
        """Return the clients that may take part, sorted: those with too many strikes sit out."""
        return tuple(sorted(n for n in self.clients if self.strikes[n] < self._config.federation.max_strikes))

    def refuse(self, organisation: str, error: ProtocolError) -> bool:
        """Note a reply that was refused, to tell its sender. Returns whether it deserves a strike.

        One that failed to come does not: nothing wrong was sent.
        """
        if isinstance(error, PeerFailedError):
            return False
        self.refusals[organisation] = error.code
        return True

    def _everybody_answered(self) -> bool:
        """Return whether as many clients as expected have answered, or are connected and have failed."""
        settings = self._config.federation
        expected = max(settings.start_clients, settings.min_clients)
        came = len(self.clients) + len(self._answers)
        return came >= expected or (len(self._present) >= expected and not self._box.nodes)

    def _admit_all(self) -> None:
        """Admit or reject the nodes that have answered, once the terms are settled."""
        if self._terms is not None:
            for node, answer in sorted(self._answers.items()):
                self._admit(node, answer, self._terms)
            self._answers.clear()

    def _who_is_missing(self) -> str:
        settings, came = self._config.federation, len(self.clients) + len(self._answers)
        lines = [f"{came} of the {settings.min_clients} clients needed have joined."]
        if self._terms is None and came >= settings.min_clients:
            lines.append(
                "No adapter and base model is meant by more than half of them, with the rank, alpha, seed and method "
                "of this run. Every client needs the same model and run configuration, and this rank: "
                f"{self._config.mixed_ranks_refused or 'or a smaller one of its own'}."
            )
        return " ".join([*lines, *self._reasons.values()])

    def _is_due(self, node: int, now: float) -> bool:
        waits = node in self._box.nodes or node in self._answers or node in self.nodes.values()
        return not waits and now >= self._asked_at.get(node, -ASK_AGAIN_S) + ASK_AGAIN_S

    def _majority(self) -> Terms | None:
        """Return the terms of more than half of the answers, if the run's settings allow them."""
        meant = [(self._federations(answer.schema), answer) for answer in self._answers.values()]
        votes = Counter((schema.sha256, answer.base_model_sha256) for schema, answer in meant)
        for schema, answer in meant:
            agree = votes[schema.sha256, answer.base_model_sha256] * 2 > len(meant)
            if agree and self._fits(answer.schema, schema):
                return Terms(schema, answer.base_model_sha256)
        return None

    def _federations(self, schema: AdapterSchema) -> AdapterSchema:
        """Return the federation's schema on the layers of a client's."""
        return run_schema(self._config, schema.modules)

    def _fits(self, own: AdapterSchema, whole: AdapterSchema) -> bool:
        """Return whether a client's schema is the federation's, or the same at a smaller rank if allowed."""
        if own.rank != whole.rank and self._config.mixed_ranks_refused:
            return False
        try:
            return own.sha256 == whole.at_rank(own.rank).sha256
        except ConfigError:
            return False

    def _admit(self, node: int, client: Capabilities, terms: Terms) -> None:
        name = client.organisation
        registered = name if self._nodes_file is None else read_nodes(self._nodes_file).get(node)
        if registered != name:
            known_as = f"registered as {registered}" if registered else "not registered"
            self._turn_away(node, f"it says it is {name}, but it is {known_as}")
        elif not self._fits(client.schema, terms.schema):
            self._turn_away(node, f"{name}'s adapter has other layers or shapes: another model or other settings")
        elif client.base_model_sha256 != terms.base_model_sha256:
            self._turn_away(node, f"{name}'s base model has other weights or another tokenizer than the federation's")
        elif missing := self._kept_back(client):
            self._turn_away(node, f"{name} keeps back {missing}, which aggregation.weights or gate.max-kl needs")
        elif client.tokens_per_second < self._config.federation.min_tokens_per_second:
            least = self._config.federation.min_tokens_per_second
            self._turn_away(
                node,
                f"{name} samples {client.tokens_per_second:.0f} tokens a second, "
                f"federation.min-tokens-per-second is {least:g}",
            )
        elif name in self.nodes:
            self._turn_away(node, f"node {self.nodes[name]} already takes part as {name}")
        else:
            self.clients[name], self.nodes[name] = client, node
            self._reasons.pop(node, None)
            emit(Joined(name, client.examples, client.prompts_too_long, client.held_out))

    def _kept_back(self, client: Capabilities) -> str:
        """Return the metrics that the weights or the gate need and this client's policy withholds."""
        needed = WEIGHTS[self._config.aggregation.weights].metrics
        needed += ("policy/kl",) if self._config.gate.max_kl else ()
        return ", ".join(name for name in needed if name not in client.metrics)

    def _turn_away(self, node: int, reason: str) -> None:
        if self._reasons.get(node) != f"Node {node}: {reason}.":
            emit(NotJoined(node, reason))
        self._reasons[node] = f"Node {node}: {reason}."
