"""The round loop: ask a cohort, take what is sound, fold, commit; or void the round and try again.

Own loop, and not Flower's `Strategy.start`: that one cannot resume, waits for nodes without end, averages NaN in, and
counts a round without replies as done.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import reduce
from operator import add

from flwr.app import RecordDict
from flwr.serverapp import Grid

from ..common import wire
from ..common.config import RunConfig
from ..common.errors import ProtocolError, RunError
from ..common.protocol import Evaluation, Tally
from .aggregation import l2_norm, next_adapter, raw_weight, shares
from .events import (
    Evaluated,
    RoundCommitted,
    RoundStarted,
    RoundVoid,
    UpdateRefused,
    UpdateTaken,
    emit,
)
from .exchange import exchange
from .intake import read_evaluation, read_update
from .roster import Roster
from .scores import score
from .store import State, Store


@dataclass(frozen=True, slots=True)
class Taken:
    """One valid update, without its delta: that lies in the store's inbox."""

    num_examples: int
    metrics: dict[str, float]
    weight: float
    norm: float
    bytes_up: int


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
            attempt = state.voids + 1
            done, reason = self._attempt(state, attempt)
            if done:
                return done
            self.store.log("VOID", round=state.round + 1, attempt=attempt, reason=reason)
            emit(RoundVoid(state.round + 1, attempt, reason))
            state = replace(state, voids=attempt)
            if attempt % settings.max_void_rounds == 0:
                raise RunError(
                    f"Round {state.round + 1} was void {attempt} times: {reason}. "
                    f"{state.round} committed rounds are safe in {self.store.folder}."
                )
            self._wait(settings.retry_wait_s * 2 ** ((attempt - 1) % settings.max_void_rounds))
            self.roster.welcome(self.grid, state.adapter.schema, self.stopped)

    def evaluate(self, state: State, temperature: float) -> None:
        """Have the clients answer the held-out problems, and write down the sums."""
        expected = {"federation": state.federation, "round": state.round}
        header = {**expected, "config-sha256": self.config.sha256, "temperature": temperature}
        content = wire.pack(header, vector=state.adapter.vector)
        nodes = {self.roster.nodes[name]: name for name in self.roster.cohort(state.round)}
        found: list[Evaluation] = []
        for reply in self._ask(dict.fromkeys(nodes, content), "evaluate", f"{state.round}.evaluate"):
            try:
                found.append(read_evaluation(reply.opened(), expected, self.config.evaluation.class_columns))
            except ProtocolError as error:
                emit(UpdateRefused(state.round, nodes[reply.node], error.code, str(error)))
        if not found:
            raise RunError(f"No client could evaluate round {state.round}. {self.store.folder} holds what was done.")
        total = reduce(add, (e.total for e in found))
        names = sorted({name for e in found for name in e.classes})
        classes = {name: reduce(add, (e.classes.get(name, Tally()) for e in found)) for name in names}
        decoding = "sampled" if temperature else "greedy"
        self.store.add_metrics(
            {
                "kind": "evaluation",
                "round": state.round,
                "decoding": decoding,
                "total": asdict(total),
                "classes": {name: asdict(tally) for name, tally in classes.items()},
            }
        )
        emit(Evaluated(state.round, decoding, score(total)))

    def _attempt(self, state: State, attempt: int) -> tuple[State | None, str]:
        start, number = time.monotonic(), state.round + 1
        cohort = self.roster.cohort(number)
        needed = max(1, math.ceil(len(cohort) * self.config.federation.quorum))
        if len(cohort) < self.config.federation.min_clients:
            return (
                None,
                f"{len(cohort)} clients are there, federation.min-clients is {self.config.federation.min_clients}",
            )
        nonce = secrets.token_hex(8)
        self.store.log("PLANNED", round=number, attempt=attempt, cohort=cohort, adapter=state.adapter.sha256)
        emit(RoundStarted(number, attempt, cohort))
        messages = {self.roster.nodes[n]: self._task(state, n, attempt, nonce) for n in cohort}
        taken, refused = self._collect(state, attempt, nonce, messages)
        if len(taken) < needed:
            detail = ", ".join(f"{name} {code}" for name, code in sorted(refused.items()))
            return None, f"{len(taken)} of {len(cohort)} updates were valid, {needed} are needed ({detail})"
        weights = shares({n: t.weight for n, t in taken.items()}, self.config.aggregation.max_share)
        adapter = next_adapter(state.adapter, weights, self.store.kept_update, self.config.aggregation)
        positions = {**state.positions, **{n: state.positions.get(n, 0) + t.num_examples for n, t in taken.items()}}
        done = replace(state, round=number, adapter=adapter, positions=positions, voids=0)
        bytes_down = sum(wire.wire_bytes(content) for content in messages.values())
        bytes_up = sum(t.bytes_up for t in taken.values())
        seconds = time.monotonic() - start
        metrics: dict[str, object] = {
            "attempt": attempt,
            "seconds": round(seconds, 3),
            "bytes_up": bytes_up,
            "bytes_down": bytes_down,
            "update_norm": l2_norm(adapter.minus(state.adapter)),
            "refused": refused,
            "clients": {
                n: {"share": weights[n], "examples": t.num_examples, "norm": t.norm, **t.metrics}
                for n, t in sorted(taken.items())
            },
        }
        self.store.commit(done, attempt, metrics, self.config.model.name)
        emit(RoundCommitted(number, adapter.sha256, len(taken), len(cohort), seconds, bytes_up, bytes_down))
        return done, ""

    def _collect(
        self, state: State, attempt: int, nonce: str, messages: dict[int, RecordDict]
    ) -> tuple[dict[str, Taken], dict[str, str]]:
        number, schema = state.round + 1, state.adapter.schema
        names = {self.roster.nodes[n]: n for n in self.roster.nodes}
        expected = self._echo(state, attempt, nonce)
        taken: dict[str, Taken] = {}
        refused: dict[str, str] = {}
        for reply in self._ask(messages, "train", f"{number}.{attempt}"):
            name = names[reply.node]
            try:
                content = reply.opened()
                update = read_update(content, self.roster.members[name], expected, schema, self.config.intake)
            except ProtocolError as error:
                refused[name] = error.code
                self.roster.refuse(name, error)
                emit(UpdateRefused(number, name, error.code, str(error)))
                continue
            self.roster.refusals.pop(name, None)
            self.store.keep_update(name, update.delta)
            weight, norm = raw_weight(update, self.config.aggregation.weights), l2_norm(update.delta)
            size = wire.wire_bytes(content)
            taken[name] = Taken(update.num_examples, update.metrics, weight, norm, size)
            emit(UpdateTaken(number, name, update.metrics, size))
        return taken, refused

    def _echo(self, state: State, attempt: int, nonce: str) -> dict[str, str | int]:
        return {
            "federation": state.federation,
            "round": state.round + 1,
            "attempt": attempt,
            "nonce": nonce,
            "schema-sha256": state.adapter.schema.sha256,
            "config-sha256": self.config.sha256,
        }

    def _task(self, state: State, name: str, attempt: int, nonce: str) -> RecordDict:
        header = {
            **self._echo(state, attempt, nonce),
            "position": state.positions.get(name, 0),
            "last-refusal": self.roster.refusals.get(name, ""),
        }
        return wire.pack(header, vector=state.adapter.vector)

    def _ask(self, messages: dict[int, RecordDict], kind: str, group: str):
        timeout = self.config.federation.round_timeout_s
        return exchange(self.grid, messages, kind, group=group, timeout_s=timeout, stopped=self.stopped)

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.stopped()
            time.sleep(min(0.2, max(0.0, deadline - time.monotonic())))
