"""The round loop: ask a cohort, accept valid updates, aggregate, gate, commit; or void the round and retry.

Own loop, and not Flower's `Strategy.start`: that one cannot resume, waits for nodes without end, averages NaN in, and
counts a round without replies as done.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from ...common.errors import ProtocolError, RunError
from ...common.messages import wire
from ...common.messages.messages import TaskId, TrainTask
from ...common.settings.aggregation import updates_needed
from ...common.settings.run_config import RunConfig
from ..aggregation.aggregate import Diagnostics, aggregate
from ..aggregation.state import State
from ..aggregation.summed import SUM, aggregate_sum, mean_update
from ..aggregation.weights import raw_weight
from ..audit.round_log import RoundLog
from ..run import events
from ..run.events import emit
from ..run.journal import Planned, Void
from ..run.store import Store
from .attempt import Attempt, received
from .audited import arrived, prepared, settle
from .evaluation import Evaluator, Verdict
from .exchange import ClientCalls, EncodedAdapter, Reply
from .intake import read_update
from .roster import Roster
from .summed_round import SummedExchange
from .task import train_task

Result = tuple[State, Diagnostics]


@dataclass(slots=True)
class Rounds:
    """The rounds of one federation. Everything that must survive a crash is in `State` and `Store`."""

    calls: ClientCalls
    config: RunConfig
    store: Store
    roster: Roster
    evaluator: Evaluator
    summed: SummedExchange | None = None
    """Where the server sees sums only (privacy.mode)."""
    log: RoundLog | None = None
    """The signed round log, where the run has the server's identity."""

    def play(self, state: State) -> State:
        """Try the next round until it is committed.

        Raises:
            RunError: it was void `federation.max-void-rounds` times in a row, or too few clients can take part.
        """
        while True:
            self._require_clients(state)
            this = Attempt(state.round + 1, state.voids + 1, self.roster.cohort(state.round + 1))
            self._plan(state, this)
            reason, result = self._summed(state, this) if self.summed else self._aggregated(state, this)
            if result is not None:
                done, diagnostics = result
                verdict = self._judged(state, done, this)
                reason = verdict.reason
                if not reason:
                    self._commit(state, done, this, diagnostics)
                    if verdict.evaluations:
                        self.evaluator.note(done, verdict.evaluations)
                    return done
                state = replace(state, positions=done.positions)  # else the same prompts would be tried again
            state = replace(state, voids=this.attempt)
            self._void(state, this, reason)

    def _require_clients(self, state: State) -> None:
        """Wait until enough clients for a round are connected.

        Raises:
            RunError: too few came in `federation.join-timeout-s`, or too few of them may still take part.
        """
        settings = self.config.federation
        safe = f"{state.round} committed rounds are safe in {self.store.folder}."
        if not self.roster.wait_for_enough(self.calls.stopped):
            raise RunError(
                f"Round {state.round + 1} cannot start: {len(self.roster.clients)} of the {settings.min_clients} "
                f"clients needed (federation.min-clients) are connected after {settings.join_timeout_s:g} s "
                f"(federation.join-timeout-s). {safe} Resume the run once they are back."
            )
        if len(able := self.roster.able()) < settings.min_clients:
            out = sorted(self.roster.clients.keys() - set(able))
            raise RunError(
                f"Round {state.round + 1} cannot start: {len(able)} of the {settings.min_clients} clients needed "
                f"(federation.min-clients) may take part. {settings.max_strikes} of their updates were refused "
                f"(federation.max-strikes): {', '.join(out)}. {safe}"
            )

    def _plan(self, state: State, this: Attempt) -> None:
        self.store.log(
            Planned(round=this.number, attempt=this.attempt, cohort=this.cohort, adapter=state.adapter.sha256)
        )
        emit(events.RoundStarted(this.number, this.attempt, this.cohort))

    def _aggregated(self, state: State, this: Attempt) -> tuple[str, Result | None]:
        """Have the cohort train, and aggregate its updates. Returns why the attempt is void, or the result."""
        reason = self._collect(state, this)
        return reason, None if reason else aggregate(state, this.updates, self.config)

    def _summed(self, state: State, this: Attempt) -> tuple[str, Result | None]:
        """As `_aggregated`, where only the sum of the updates is seen."""
        assert self.summed is not None
        try:
            tasks = {name: self._task(state, this, name) for name in this.cohort}
            total, answer = self.summed.opened_updates(tasks, self._wait)
        except ProtocolError as error:
            this.refused = self.summed.refused
            return str(error), None
        this.refused, this.members = self.summed.refused, total.members
        this.step_seconds = answer.state.seconds
        this.arrived = {name: (answer.state.arrived.get(name, ""), answer.bytes_each) for name in total.members}
        this.agreement, this.agreed = dict(answer.state.signatures), answer.agreed
        this.updates = {SUM: mean_update(state, total, self.config)}
        this.bytes_up, this.bytes_down = {SUM: answer.state.bytes_up}, {SUM: answer.state.bytes_down}
        emit(events.UpdateTaken(this.number, SUM, total.metrics, answer.state.bytes_up))
        return "", aggregate_sum(state, total, self.config)

    def _collect(self, state: State, this: Attempt) -> str:
        """Ask the cohort and accept valid updates. Returns why the attempt is void, or an empty text."""
        names = {self.roster.nodes[name]: name for name in this.cohort}
        arrays = EncodedAdapter(state.adapter, self.config.compression.down)
        messages = {
            node: wire.record_of(self._task(state, this, name), array=arrays.at(self.roster.clients[name].schema))
            for node, name in names.items()
        }
        this.bytes_down = {names[node]: wire.wire_bytes(content) for node, content in messages.items()}
        for reply in self.calls.ask(messages, "train", f"{this.number}.{this.attempt}"):
            self._take(state, this, names[reply.node], reply)
        settings = self.config.aggregation
        weighed = sum(update.weight > 0 for update in this.updates.values())
        for_rule = updates_needed(settings.rule, settings.hostile)
        needed = self.config.federation.updates_needed(len(this.cohort))
        if len(this.updates) >= needed and 0 < weighed < for_rule:
            return f"only {weighed} updates had a weight (aggregation.rule = {settings.rule} needs {for_rule})"
        if len(this.updates) >= needed:
            return ""
        detail = ", ".join(f"{name} {code}" for name, code in sorted(this.refused.items()))
        return f"only {len(this.updates)} of {len(this.cohort)} updates were valid (quorum {needed}): {detail}"

    def _take(self, state: State, this: Attempt, name: str, reply: Reply) -> None:
        client = self.roster.clients[name]
        task = TaskId.of(self._task(state, this, name))
        try:
            content = reply.opened()
            update = read_update(content, client, task, self.config)
            weight = raw_weight(update, self.config.aggregation.weights, state.rewards.get(name, ()))
        except ProtocolError as error:
            this.refused[name] = error.code
            if self.roster.refuse(name, error):
                this.strikes.append(name)
            emit(events.UpdateRefused(this.number, name, error.code, str(error)))
            return
        self.roster.refusals.pop(name, None)
        this.arrived[name] = arrived(content)
        self.store.keep_update(name, update.delta)
        if self.config.output.keep_updates:
            self.store.keep_arrived(this.number, name, content.array_records[wire.VECTOR][wire.VECTOR].data)
        this.updates[name] = received(update, self.store.kept_update(name), client.schema, weight)
        this.bytes_up[name] = wire.wire_bytes(content)
        emit(events.UpdateTaken(this.number, name, update.metrics, this.bytes_up[name]))

    def _judged(self, state: State, done: State, this: Attempt) -> Verdict:
        """Have the reward gate, if it is enabled, judge the round's adapter.

        Raises:
            RunError: the adapter is not finite.
        """
        if not np.isfinite(done.adapter.vector).all():
            raise RunError(f"Round {this.number}'s adapter is not finite, and was not committed. Smaller steps?")
        if not self.config.gate.enabled:
            return Verdict("", {})
        kls = [u.metrics["policy/kl"] for u in this.updates.values() if "policy/kl" in u.metrics]
        return self.evaluator.judge(state, done, this.attempt, kls)

    def _void(self, state: State, this: Attempt, reason: str) -> None:
        """Record a void attempt, and wait before the next one.

        Raises:
            RunError: it was one too many.
        """
        settings = self.config.federation
        line = prepared(self.log, this, "void", state.adapter.sha256, reason)
        self.store.log(Void(round=this.number, attempt=this.attempt, reason=reason, positions=state.positions))
        settle(self.log, line)
        emit(events.RoundVoid(this.number, this.attempt, reason))
        if this.attempt % settings.max_void_rounds == 0:
            raise RunError(
                f"Round {this.number} was void {this.attempt} times: {reason}. "
                f"{state.round} committed rounds are safe in {self.store.folder}."
            )
        self._wait(settings.retry_wait_s * 2 ** ((this.attempt - 1) % settings.max_void_rounds))

    def _commit(self, state: State, done: State, this: Attempt, diagnostics: Diagnostics) -> None:
        self.roster.strikes.update(this.strikes)
        if diagnostics.capped:
            emit(events.SharesCapped(this.number, diagnostics.capped))
        metrics = this.metrics(diagnostics)
        line = prepared(self.log, this, "committed", done.adapter.sha256)
        self.store.commit(replace(done, strikes=dict(self.roster.strikes)), metrics, self.config.model.name)
        settle(self.log, line)
        emit(
            events.RoundCommitted(
                round=this.number,
                adapter_sha256=done.adapter.sha256,
                valid=this.valid,
                asked=len(this.cohort),
                seconds=metrics.seconds,
                bytes_up=metrics.bytes_up,
                bytes_down=metrics.bytes_down,
                moved=done.adapter.sha256 != state.adapter.sha256,
            )
        )

    def _task(self, state: State, this: Attempt, name: str) -> TrainTask:
        return train_task(
            state,
            name,
            number=this.number,
            attempt=this.attempt,
            nonce=this.nonce,
            schema_sha256=self.roster.clients[name].schema.sha256,
            config=self.config,
            last_refusal=self.roster.refusals.get(name, ""),
            members=self.summed.members if self.summed else 0,
            summed_metrics=self.summed.metrics_of(this.cohort) if self.summed else (),
        )

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.calls.stopped()
            time.sleep(min(0.2, max(0.0, deadline - time.monotonic())))
