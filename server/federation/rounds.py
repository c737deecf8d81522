"""The round loop: ask a cohort, take what is sound, fold, commit; or void the round and try again.

Own loop, and not Flower's `Strategy.start`: that one cannot resume, waits for nodes without end, averages NaN in, and
counts a round without replies as done.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field, replace
from statistics import median

import numpy as np
from flwr.app import RecordDict

from ...common.adapter.adapter import l2_norm
from ...common.adapter.schema import AdapterSchema
from ...common.errors import ProtocolError, RunError
from ...common.messages import wire
from ...common.settings.aggregation import updates_needed
from ...common.settings.run_config import RunConfig
from ..aggregation.aggregate import clip_factors, next_adapter, step_factors
from ..aggregation.products import ClientUpdate
from ..aggregation.weights import KEPT_ROUNDS, raw_weight, shares
from ..run.events import RoundCommitted, RoundStarted, RoundVoid, UpdateRefused, UpdateTaken, emit
from ..run.store import State, Store
from .evaluation import Evaluator
from .exchange import ClientCalls, EncodedAdapter, Reply
from .intake import read_update
from .roster import Roster


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
    bytes_down: dict[str, int] = field(default_factory=dict[str, int])
    """By organisation."""
    taken: dict[str, Taken] = field(default_factory=dict[str, Taken])
    refused: dict[str, str] = field(default_factory=dict[str, str])
    """Organisation -> code."""
    strikes: list[str] = field(default_factory=list[str])
    """Who sent something wrong. Counts if the round commits: where most replies are wrong, the run is, not a client."""


@dataclass(slots=True)
class Rounds:
    """Plays the rounds of one federation. What must survive a crash is in `State` and `Store`, nothing here."""

    calls: ClientCalls
    config: RunConfig
    store: Store
    roster: Roster
    evaluator: Evaluator

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
                done, metrics = self._stepped(state, this)
                if not np.isfinite(done.adapter.vector).all():
                    raise RunError(
                        f"Round {this.number}'s adapter is not finite, and was not committed. Smaller steps?"
                    )
                kls = [t.metrics["policy/kl"] for t in this.taken.values() if "policy/kl" in t.metrics]
                found = self.evaluator.judge(state, done, this.attempt, kls) if self.config.gate.enabled else None
                reason = found.reason if found else ""
                if not reason:
                    self._commit(state, done, this, metrics)
                    if found:
                        self.evaluator.note(done, found.evaluations)
                    return done
                state = replace(state, positions=done.positions)  # else the same prompts would be tried again
            state = replace(state, voids=this.attempt)
            self.store.log(
                "VOID", round=this.number, attempt=this.attempt, reason=reason, positions=dict(state.positions)
            )
            emit(RoundVoid(this.number, this.attempt, reason))
            if this.attempt % settings.max_void_rounds == 0:
                raise RunError(
                    f"Round {this.number} was void {this.attempt} times: {reason}. "
                    f"{state.round} committed rounds are safe in {self.store.folder}."
                )
            self._wait(settings.retry_wait_s * 2 ** ((this.attempt - 1) % settings.max_void_rounds))

    def _collect(self, state: State, this: Attempt) -> str:
        """Ask the cohort and take what is sound. Returns why the attempt is void, or nothing."""
        least = self.config.federation.min_clients
        if len(self.roster.able()) < least:
            return f"only {len(self.roster.able())} clients can take part (federation.min-clients is {least})"
        self.store.log(
            "PLANNED", round=this.number, attempt=this.attempt, cohort=this.cohort, adapter=state.adapter.sha256
        )
        emit(RoundStarted(this.number, this.attempt, this.cohort))
        names = {self.roster.nodes[name]: name for name in this.cohort}
        arrays = EncodedAdapter(state.adapter, self.config.compression.down)
        messages = {node: self._task(state, this, name, arrays) for node, name in names.items()}
        this.bytes_down = {names[node]: wire.wire_bytes(content) for node, content in messages.items()}
        for reply in self.calls.ask(messages, "train", f"{this.number}.{this.attempt}"):
            self._take(state, this, names[reply.node], reply)
        settings = self.config.aggregation
        weighed = sum(taken.weight > 0 for taken in this.taken.values())
        for_rule = updates_needed(settings.rule, settings.hostile)
        needed = self.config.federation.updates_needed(len(this.cohort))
        if len(this.taken) >= needed and 0 < weighed < for_rule:
            return f"only {weighed} updates had a weight (aggregation.rule = {settings.rule} needs {for_rule})"
        if len(this.taken) >= needed:
            return ""
        detail = ", ".join(f"{name} {code}" for name, code in sorted(this.refused.items()))
        return f"only {len(this.taken)} of {len(this.cohort)} updates were valid (quorum {needed}): {detail}"

    def _take(self, state: State, this: Attempt, name: str, reply: Reply) -> None:
        client = self.roster.clients[name]
        echo = self._echo(state, this, client.schema)
        try:
            content = reply.opened()
            update = read_update(content, client, echo, self.config)
        except ProtocolError as error:
            this.refused[name] = error.code
            if self.roster.refuse(name, error):
                this.strikes.append(name)
            emit(UpdateRefused(this.number, name, error.code, str(error)))
            return
        self.roster.refusals.pop(name, None)
        self.store.keep_update(name, update.delta)
        history = state.rewards.get(name, ())
        weight, size = raw_weight(update, self.config.aggregation.weights, history), wire.wire_bytes(content)
        norm = l2_norm(update.delta)
        this.taken[name] = Taken(update.metrics, update.num_steps, update.num_examples, weight, norm, size)
        emit(UpdateTaken(this.number, name, update.metrics, size))

    def _stepped(self, state: State, this: Attempt) -> tuple[State, dict[str, object]]:
        """(the state after this round, its metrics)."""
        settings, taken = self.config.aggregation, this.taken
        weights = shares({n: t.weight for n, t in taken.items()}, settings.max_share, settings.min_share)
        factors = step_factors(weights, {name: t.steps for name, t in taken.items()})
        norms = {name: t.norm * factors[name] for name, t in taken.items()}  # as they count
        median_norm = float(median([norm for norm in norms.values() if norm > 0] or [state.median_norm]))
        clips = clip_factors(norms, self._longest(state.median_norm or median_norm))
        given = {
            name: ClientUpdate(
                weights[name],
                clips[name] * factors[name],
                self.roster.clients[name].schema,
                self.store.kept_update(name),
            )
            for name in taken
        }
        step = next_adapter(state.adapter, state.memory, given, settings, self.config.compression.down)
        used = {name: state.positions.get(name, 0) + t.examples for name, t in taken.items()}
        told = {n: t.metrics["reward/mean"] for n, t in taken.items() if "reward/mean" in t.metrics}
        rewards = {n: (*state.rewards.get(n, ()), reward)[-KEPT_ROUNDS:] for n, reward in told.items()}
        done = replace(
            state,
            round=this.number,
            adapter=step.adapter,
            positions={**state.positions, **used},
            counted={**state.counted, **{n: (this.number, this.attempt) for n in taken if step.shares[n] > 0}},
            rewards={**state.rewards, **rewards},
            median_norm=median_norm,
            memory=step.memory,
            voids=0,
        )
        metrics: dict[str, object] = {
            "attempt": this.attempt,
            "seconds": round(time.monotonic() - this.started, 3),
            "bytes_up": sum(t.bytes_up for t in taken.values()),
            "bytes_down": sum(this.bytes_down.values()),
            "update_norm": l2_norm(done.adapter.minus(state.adapter)),
            "aggregation/error": step.error,
            "refused": this.refused,
            "clients": {
                n: {
                    "share": step.shares[n],
                    "steps": t.steps,
                    "examples": t.examples,
                    "norm": t.norm,
                    "clipped": clips[n] < 1,
                    "bytes_up": t.bytes_up,
                    "bytes_down": this.bytes_down[n],
                    **t.metrics,
                }
                for n, t in sorted(taken.items())
            },
        }
        return done, metrics

    def _longest(self, median_norm: float) -> float:
        """Longest delta that counts in full."""
        settings = self.config.intake
        of_median = settings.clip_to_median * median_norm
        return min(settings.max_delta_norm, of_median) if of_median else settings.max_delta_norm

    def _commit(self, state: State, done: State, this: Attempt, metrics: dict[str, object]) -> None:
        self.roster.strikes.update(this.strikes)
        self.store.commit(
            replace(done, strikes=dict(self.roster.strikes)), this.attempt, metrics, self.config.model.name
        )
        counts = len(this.taken), len(this.cohort)
        moved = done.adapter.sha256 != state.adapter.sha256
        seconds, up, down = (
            time.monotonic() - this.started,
            int(str(metrics["bytes_up"])),
            sum(this.bytes_down.values()),
        )
        emit(RoundCommitted(this.number, done.adapter.sha256, *counts, seconds, up, down, moved))

    def _echo(self, state: State, this: Attempt, schema: AdapterSchema) -> dict[str, str | int]:
        return {
            "federation": state.federation,
            "round": this.number,
            "attempt": this.attempt,
            "nonce": this.nonce,
            "schema-sha256": schema.sha256,
            "config-sha256": self.config.sha256,
        }

    def _task(self, state: State, this: Attempt, name: str, arrays: EncodedAdapter) -> RecordDict:
        schema, (counted_round, counted_attempt) = self.roster.clients[name].schema, state.counted.get(name, (0, 0))
        header = {
            **self._echo(state, this, schema),
            "position": state.positions.get(name, 0),
            "counted-round": counted_round,
            "counted-attempt": counted_attempt,
            "last-refusal": self.roster.refusals.get(name, ""),
        }
        return wire.pack(header, array=arrays.at(schema))

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.calls.stopped()
            time.sleep(min(0.2, max(0.0, deadline - time.monotonic())))
