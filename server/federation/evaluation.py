"""Held-out accuracy: the clients answer their problems and send counts, for the curve and for the reward gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add

from ...common.adapter.adapter import Adapter
from ...common.analysis.scores import score
from ...common.errors import ProtocolError, RunError
from ...common.messages import wire
from ...common.messages.messages import EvaluateTask, Evaluation, Tally
from ...common.settings.run_config import RunConfig
from ..aggregation.state import State
from ..aggregation.summed import SUM
from ..run.events import Evaluated, EvaluationStarted, NotEvaluated, UpdateRefused, emit
from ..run.journal import Withheld
from ..run.metrics import EvaluationMetrics
from ..run.store import Store
from .exchange import ClientCalls, EncodedAdapter
from .intake import check_tally, read_evaluation
from .reward_gate import objection
from .roster import Roster
from .summed_round import SummedExchange


def due(config: RunConfig, number: int) -> tuple[str, ...]:
    """Return the decodings by which held-out problems are answered after round `number`; 0 is before training.

    Both before and after training, sampled every `evaluation.every` rounds; the reward gate's evaluations come on top.
    """
    if number in (0, config.federation.rounds):
        return ("greedy", "sampled")
    every = config.evaluation.every
    return ("sampled",) if every and number % every == 0 else ()


def longest_answer(config: RunConfig) -> int:
    """Return the most tokens that a held-out answer can have."""
    return config.evaluation.max_completion_length or config.grpo.max_completion_length


@dataclass(frozen=True, slots=True)
class Verdict:
    """The reward gate's verdict on a round."""

    reason: str
    """Why the round is void; empty if it may be committed."""
    evaluations: dict[str, Evaluation]


@dataclass(slots=True)
class Evaluator:
    """Has the clients answer their held-out problems."""

    calls: ClientCalls
    config: RunConfig
    store: Store
    roster: Roster
    summed: SummedExchange | None = None
    """Where the server sees sums only (privacy.mode)."""
    _members: tuple[str, ...] = ()
    """Whose counts are in the last sum."""
    _known: dict[str, dict[str, Evaluation]] = field(default_factory=dict[str, dict[str, Evaluation]])
    """By adapter, its last evaluation at the sampling temperature. Of the current adapter only."""

    def evaluate(self, state: State, temperature: float) -> None:
        """Have every client that may take part answer its held-out problems, and write down the sums.

        Raises:
            RunError: no client could.
        """
        decoding = "greedy" if temperature == 0 else "sampled"
        emit(EvaluationStarted(state.round, decoding, tuple(self.roster.able())))
        found, refused = self._sum(state, temperature) if self.summed else self._ask(state.adapter, state, temperature)
        if not found and (self.summed or any(code.startswith("policy.") for code in refused.values())):
            withheld = Withheld(round=state.round, decoding=decoding, codes=refused)
            self.store.log(withheld)
            emit(NotEvaluated(str(withheld)))
            return
        if not found:
            raise RunError(f"No client could evaluate round {state.round}. {self.store.folder} holds what was done.")
        self.note(state, found, temperature)

    def judge(self, state: State, candidate: State, attempt: int, kls: Sequence[float]) -> Verdict:
        """Have the clients answer with a round's adapter too, and compare.

        Args:
            attempt: at the round; a client that has answered for an earlier attempt is asked anew.
            kls: see `gate.objection`.
        """
        temperature, before = self.config.evaluation.temperature, state.adapter.sha256
        if before not in self._known:  # a resumed run, or rounds between evaluations
            self._known = {before: self._ask(state.adapter, state, temperature, attempt=attempt)[0]}
        found, refused = self._ask(candidate.adapter, candidate, temperature, against=before, attempt=attempt)
        hostile = self.config.aggregation.hostile
        reason = objection(found, self._known[before], kls, self.config.gate, hostile)
        if not any(e.total.compared for e in found.values()):
            self._known = {}  # the clients have forgotten: they were started again
            reason += f" ({', '.join(sorted(set(refused.values())))})" if refused else ""
        return Verdict(reason and f"the reward gate objects: {reason}", found)

    def note(self, state: State, found: Mapping[str, Evaluation], temperature: float | None = None) -> None:
        """Write down the sums of an evaluation; without a temperature, of one at that of sampling."""
        if temperature != 0:
            self._known = {state.adapter.sha256: dict(found)}
        decoding = "greedy" if temperature == 0 else "sampled"
        total = reduce(add, (e.total for e in found.values()))
        names = sorted({name for e in found.values() for name in e.classes})
        classes = {name: reduce(add, (e.classes.get(name, Tally()) for e in found.values())) for name in names}
        self.store.add_metrics(
            EvaluationMetrics(
                round=state.round,
                decoding=decoding,
                clients=tuple(sorted(found)) if self.summed is None else self._members,
                total=total,
                classes=classes,
            )
        )
        emit(Evaluated(state.round, decoding, score(total)))

    def _sum(self, state: State, temperature: float) -> tuple[dict[str, Evaluation], dict[str, str]]:
        """As `_ask`, where only the sum of the counts is seen."""
        assert self.summed is not None
        self.roster.welcome()
        task = EvaluateTask(
            federation=state.federation,
            round=state.round,
            adapter=state.adapter,
            temperature=temperature,
            members=self.summed.members,
            config_sha256=self.config.sha256,
        )
        try:
            total, members = self.summed.counts(task, self.roster.able())
            check_tally(total, longest_answer(self.config))
        except ProtocolError as error:
            emit(NotEvaluated(str(error)))
            return {}, self.summed.refused
        self._members = members
        return {SUM: Evaluation.of(total)}, {}

    def _ask(
        self, adapter: Adapter, state: State, temperature: float, *, against: str = "", attempt: int = 0
    ) -> tuple[dict[str, Evaluation], dict[str, str]]:
        """Return (counts, the codes of those that did not send any), by organisation."""
        self.roster.welcome()
        arrays = EncodedAdapter(adapter, self.config.compression.down)
        task = EvaluateTask(
            federation=state.federation,
            round=state.round,
            adapter=adapter,
            temperature=temperature,
            attempt=attempt,
            against=against,
            config_sha256=self.config.sha256,
        )
        nodes = {self.roster.nodes[name]: name for name in self.roster.able()}
        messages = {
            node: wire.record_of(task, array=arrays.at(self.roster.clients[name].schema))
            for node, name in nodes.items()
        }
        found: dict[str, Evaluation] = {}
        refused: dict[str, str] = {}
        for reply in self.calls.ask(messages, "evaluate", f"{state.round}.evaluate"):
            name = nodes[reply.node]
            try:
                found[name] = read_evaluation(
                    reply.opened(),
                    task,
                    self.config.evaluation.class_columns,
                    held_out=self.roster.clients[name].held_out,
                    max_tokens=longest_answer(self.config),
                )
            except ProtocolError as error:
                self.roster.refuse(name, error)
                refused[name] = error.code
                emit(UpdateRefused(state.round, name, error.code, str(error)))
        return found, refused
