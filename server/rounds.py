"""The round loop: ask a cohort, take what is sound, fold, commit; or void the round and try again.

Own loop, and not Flower's `Strategy.start`: that one cannot resume, waits for nodes without end, averages NaN in, and
counts a round without replies as done.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import reduce
from operator import add

from flwr.app import ArrayRecord, RecordDict
from flwr.serverapp import Grid

from ..common import wire
from ..common.adapter import l2_norm
from ..common.config import RunConfig
from ..common.errors import ProtocolError, RunError
from ..common.protocol import Evaluation, Tally
from .aggregation import next_adapter, raw_weight, shares
from .events import Evaluated, RoundCommitted, RoundStarted, RoundVoid, UpdateRefused, UpdateTaken, emit
from .exchange import Reply, exchange
from .intake import read_evaluation, read_update
from .roster import Roster
from .scores import score
from .store import State, Store


@dataclass(frozen=True, slots=True)
class Taken:
    """One valid update, without its delta: that lies in the store's inbox."""

    metrics: dict[str, float]
    steps: int
    examples: int
    weight: float
    norm: float
    bytes_up: int


@dataclass(slots=True)
class Attempt:
    """One try at a round: who was asked what, and what came of it."""

    number: int
    attempt: int
    cohort: tuple[str, ...]
    nonce: str = field(default_factory=lambda: secrets.token_hex(8))
    started: float = field(default_factory=time.monotonic)
    bytes_down: int = 0
    taken: dict[str, Taken] = field(default_factory=dict[str, Taken])
    refused: dict[str, str] = field(default_factory=dict[str, str])
    """Organisation -> code."""
    strikes: list[str] = field(default_factory=list[str])
    """Who sent something wrong. Counts if the round commits: where most replies are wrong, the run is, not a client."""


@dataclass(slots=True)
class Rounds:
    """Plays the rounds of one federation. What must survive a crash is in `State` and `Store`, nothing here."""

    grid: Grid
    config: RunConfig
    store: Store
    roster: Roster
    stopped: Callable[[], None]
    """Raises if the run is to end. Called while waiting."""

    def play(self, state: State) -> State:
        """Try the next round until it is committed.

        Raises:
            RunError: it was void `federation.max-void-rounds` times in a row.
        """
        settings = self.config.federation
        while True:
            self.roster.welcome()
            this = Attempt(state.round + 1, state.voids + 1, self.roster.cohort(state.round + 1))
            reason = self._collect(state, this)
            if not reason:
                return self._commit(state, this)
            state = replace(state, voids=this.attempt)
            self.store.log("VOID", round=this.number, attempt=this.attempt, reason=reason)
            emit(RoundVoid(this.number, this.attempt, reason))
            if this.attempt % settings.max_void_rounds == 0:
                raise RunError(
                    f"Round {this.number} was void {this.attempt} times: {reason}. "
                    f"{state.round} committed rounds are safe in {self.store.folder}."
                )
            self._wait(settings.retry_wait_s * 2 ** ((this.attempt - 1) % settings.max_void_rounds))

    def evaluate(self, state: State, temperature: float) -> None:
        """Have every client that may take part answer its held-out problems, and write down the sums.

        Raises:
            RunError: no client could.
        """
        self.roster.welcome()
        expected = {"federation": state.federation, "round": state.round}
        header = {**expected, "config-sha256": self.config.sha256, "temperature": temperature}
        content = wire.pack(header, vector=state.adapter.vector)
        nodes = {self.roster.nodes[name]: name for name in self.roster.able()}
        found: dict[str, Evaluation] = {}
        refused: list[str] = []
        for reply in self._ask(dict.fromkeys(nodes, content), "evaluate", f"{state.round}.evaluate"):
            name = nodes[reply.node]
            try:
                found[name] = read_evaluation(reply.opened(), expected, self.config.evaluation.class_columns)
            except ProtocolError as error:
                self.roster.refuse(name, error)
                refused.append(error.code)
                emit(UpdateRefused(state.round, name, error.code, str(error)))
        if not found and any(code.startswith("policy.") for code in refused):
            return  # organisations keep their counts to themselves; training goes on
        if not found:
            raise RunError(f"No client could evaluate round {state.round}. {self.store.folder} holds what was done.")
        self._note_evaluation(state, "sampled" if temperature else "greedy", found)

    def _note_evaluation(self, state: State, decoding: str, found: dict[str, Evaluation]) -> None:
        total = reduce(add, (e.total for e in found.values()))
        names = sorted({name for e in found.values() for name in e.classes})
        classes = {name: reduce(add, (e.classes.get(name, Tally()) for e in found.values())) for name in names}
        line = {"kind": "evaluation", "round": state.round, "decoding": decoding, "clients": sorted(found)}
        counts = {"total": asdict(total), "classes": {name: asdict(tally) for name, tally in classes.items()}}
        self.store.add_metrics({**line, **counts})
        emit(Evaluated(state.round, decoding, score(total)))

    def _collect(self, state: State, this: Attempt) -> str:
        """Ask the cohort and take what is sound. Returns why the attempt is void, or nothing."""
        least = self.config.federation.min_clients
        if len(self.roster.able()) < least:
            return f"{len(self.roster.able())} clients can take part, federation.min-clients is {least}"
        self.store.log(
            "PLANNED", round=this.number, attempt=this.attempt, cohort=this.cohort, adapter=state.adapter.sha256
        )
        emit(RoundStarted(this.number, this.attempt, this.cohort))
        names = {self.roster.nodes[name]: name for name in this.cohort}
        array = wire.packed(state.adapter.vector)
        messages = {node: self._task(state, this, name, array) for node, name in names.items()}
        this.bytes_down = sum(wire.wire_bytes(content) for content in messages.values())
        for reply in self._ask(messages, "train", f"{this.number}.{this.attempt}"):
            self._take(state, this, names[reply.node], reply)
        needed = self.config.federation.updates_needed(len(this.cohort))
        if len(this.taken) >= needed:
            return ""
        detail = ", ".join(f"{name} {code}" for name, code in sorted(this.refused.items()))
        return f"{len(this.taken)} of {len(this.cohort)} updates were valid, {needed} are needed ({detail})"

    def _take(self, state: State, this: Attempt, name: str, reply: Reply) -> None:
        member, echo = self.roster.members[name], self._echo(state, this)
        try:
            content = reply.opened()
            update = read_update(content, member, echo, state.adapter.schema, self.config)
        except ProtocolError as error:
            this.refused[name] = error.code
            if self.roster.refuse(name, error):
                this.strikes.append(name)
            emit(UpdateRefused(this.number, name, error.code, str(error)))
            return
        self.roster.refusals.pop(name, None)
        self.store.keep_update(name, update.delta)
        weight, size = raw_weight(update, self.config.aggregation.weights), wire.wire_bytes(content)
        norm = l2_norm(update.delta)
        this.taken[name] = Taken(update.metrics, update.num_steps, update.num_examples, weight, norm, size)
        emit(UpdateTaken(this.number, name, update.metrics, size))

    def _commit(self, state: State, this: Attempt) -> State:
        weights = shares({n: t.weight for n, t in this.taken.items()}, self.config.aggregation.max_share)
        steps = {name: t.steps for name, t in this.taken.items()}
        adapter = next_adapter(state.adapter, weights, steps, self.store.kept_update, self.config.aggregation)
        self.roster.strikes.update(this.strikes)
        used = {name: state.positions.get(name, 0) + t.examples for name, t in this.taken.items()}
        done = replace(
            state,
            round=this.number,
            adapter=adapter,
            positions={**state.positions, **used},
            strikes=dict(self.roster.strikes),
            voids=0,
        )
        seconds, bytes_up = time.monotonic() - this.started, sum(t.bytes_up for t in this.taken.values())
        metrics: dict[str, object] = {
            "attempt": this.attempt,
            "seconds": round(seconds, 3),
            "bytes_up": bytes_up,
            "bytes_down": this.bytes_down,
            "update_norm": l2_norm(adapter.minus(state.adapter)),
            "refused": this.refused,
            "clients": {
                n: {"share": weights[n], "steps": t.steps, "examples": t.examples, "norm": t.norm, **t.metrics}
                for n, t in sorted(this.taken.items())
            },
        }
        self.store.commit(done, this.attempt, metrics, self.config.model.name)
        counts = len(this.taken), len(this.cohort)
        moved = adapter.sha256 != state.adapter.sha256
        emit(RoundCommitted(this.number, adapter.sha256, *counts, seconds, bytes_up, this.bytes_down, moved))
        return done

    def _echo(self, state: State, this: Attempt) -> dict[str, str | int]:
        return {
            "federation": state.federation,
            "round": this.number,
            "attempt": this.attempt,
            "nonce": this.nonce,
            "schema-sha256": state.adapter.schema.sha256,
            "config-sha256": self.config.sha256,
        }

    def _task(self, state: State, this: Attempt, name: str, array: ArrayRecord) -> RecordDict:
        header = {
            **self._echo(state, this),
            "position": state.positions.get(name, 0),
            "last-refusal": self.roster.refusals.get(name, ""),
        }
        return wire.pack(header, vector=array)

    def _ask(self, messages: dict[int, RecordDict], kind: str, group: str) -> Iterator[Reply]:
        timeout = self.config.federation.round_timeout_s
        return exchange(
            self.grid,
            messages,
            kind,
            group=group,
            timeout_s=timeout,
            again_s=self.config.federation.ask_again_s,
            stopped=self.stopped,
        )

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.stopped()
            time.sleep(min(0.2, max(0.0, deadline - time.monotonic())))
