"""A round, and an evaluation, of which the server sees sums only: what is asked, and what the sums mean."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import RecordDict

from ...common.errors import ProtocolError, RunError
from ...common.identity.manifest import Manifest
from ...common.messages import wire
from ...common.messages.messages import EvaluateTask, Tally, TaskId, TrainTask, Words
from ...common.messages.metric_names import TRAIN_METRICS
from ...common.secagg.grid import grid_of
from ...common.secagg.layout import CLIPPED, EVALUATION_NUMBERS, WEIGHT, Layout, training_numbers
from ...common.secagg.statements import Context
from ...common.settings.run_config import RunConfig
from ...common.settings.scope import shared_sha256
from ...common.settings.summing import FEWEST_MEMBERS
from ..aggregation.products import Wide
from ..aggregation.summed import SummedUpdates
from ..secagg.sum_state import SumFolder, SumState
from .exchange import EncodedAdapter
from .masked_sum import MaskedSum
from .roster import Roster
from .sum_intake import read_part
from .sum_steps import Question, SumSteps, SumUnopenedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A sum, opened."""

    members: tuple[str, ...]
    update: Wide
    """Sum of the coded updates' values; empty for an evaluation."""
    numbers: dict[str, float]
    """Sums of the numbers beside them, by name."""
    state: SumState
    bytes_each: int
    """Of one member's vector."""
    agreed: dict[str, Any]
    """What the members signed of the sum (`MaskedSum.agreed`); empty where nothing is masked."""


@dataclass(frozen=True, slots=True)
class SummedExchange:
    """Asks for sums of updates and of counts."""

    steps: SumSteps
    config: RunConfig
    roster: Roster
    folder: Callable[[str], Path]
    """A sum's folder, by its label."""
    manifest: Manifest | None
    """None where nothing is masked."""

    @property
    def refused(self) -> dict[str, str]:
        """Return who failed in the last sum: organisation -> code."""
        return dict(self.steps.refused)

    @property
    def members(self) -> int:
        """Return how many members the federation has: no sum can be of more."""
        return (
            len(self.manifest.members)
            if self.manifest
            else max(len(self.roster.clients), self.config.federation.min_clients)
        )

    def metrics_of(self, cohort: tuple[str, ...]) -> tuple[str, ...]:
        """Return the training metrics that all of a cohort let out; none beside a sum that has noise."""
        if self.config.privacy.noise_multiplier:
            return ()
        allowed = [set(self.roster.clients[name].metrics) for name in cohort]
        return tuple(name for name in TRAIN_METRICS if all(name in own for own in allowed))

    def opened_updates(
        self, tasks: Mapping[str, TrainTask], wait: Callable[[float], None]
    ) -> tuple[SummedUpdates, Answer]:
        """Return `updates`; a sum on whose survivors enough have agreed is asked for until it opens.

        Raises:
            RunError: it does not open in federation.max-void-rounds trials; a resumed run asks again.
        """
        settings, reason = self.config.federation, ""
        for trial in range(settings.max_void_rounds):
            try:
                return self.updates(tasks)
            except SumUnopenedError as error:
                reason = str(error)
            if trial + 1 < settings.max_void_rounds:
                wait(settings.retry_wait_s * 2**trial)
                self.roster.welcome()
        raise RunError(
            f"Round {next(iter(tasks.values())).round} cannot be opened: {reason}. What the members sent is safe in "
            f"{self.folder('')}: resume the run once these members are back."
        )

    def updates(self, tasks: Mapping[str, TrainTask]) -> tuple[SummedUpdates, Answer]:
        """Have the cohort train, and return the sum of its updates.

        Args:
            tasks: by organisation; alike in what all of them must agree on.

        Raises:
            SumFailedError: too few members stayed to the end.
            ProtocolError: the sum is not one of so many members: one of them sent something else than its part.
        """
        task = next(iter(tasks.values()))
        factors = self.config.method.trains_in(task.round)
        numbers = training_numbers(task.summed_metrics)
        layout = Layout(
            coordinates=task.adapter.schema.size_of(factors), numbers=numbers, grid=grid_of(self.config, task.members)
        )
        array = EncodedAdapter(task.adapter, self.config.compression.down).at(task.adapter.schema)
        question = Question(
            label=f"train-{task.round}-{task.attempt}",
            context=self._context(task, numbers),
            layout=layout,
            tasks={name: wire.record_of(own, array=array) for name, own in tasks.items()},
            task_ids={name: TaskId.of(own) for name, own in tasks.items()},
            needed=self._needed(len(tasks)),
            config_sha256=self.config.sha256,
        )
        answer = self._collect(question)
        count, beside = len(answer.members), answer.numbers
        if not 0 <= beside[WEIGHT] <= count or not 0 <= beside[CLIPPED] <= count:
            raise ProtocolError("secagg.sum", f"the weights of {count} members add up to {beside[WEIGHT]:g}")
        means = {name: beside[name] / count for name in task.summed_metrics}
        return SummedUpdates(
            members=answer.members,
            update=answer.update,
            weight=beside[WEIGHT],
            clipped=round(beside[CLIPPED]),
            metrics=means,
        ), answer

    def counts(self, task: EvaluateTask, cohort: tuple[str, ...]) -> tuple[Tally, tuple[str, ...]]:
        """Have the cohort answer its held-out problems, and return (the sum of the counts, whose they are).

        Raises:
            SumFailedError, ProtocolError: as of `updates`.
        """
        decoding = "greedy" if task.temperature == 0 else "sampled"
        array = EncodedAdapter(task.adapter, self.config.compression.down).at(task.adapter.schema)
        content: RecordDict = wire.record_of(task, array=array)
        task_id = TaskId(federation=task.federation, round=task.round, attempt=task.attempt)
        question = Question(
            label=f"evaluate-{task.round}-{decoding}",
            context=self._context(task, EVALUATION_NUMBERS, decoding),
            layout=Layout(coordinates=0, numbers=EVALUATION_NUMBERS, grid=grid_of(self.config, task.members)),
            tasks=dict.fromkeys(cohort, content),
            task_ids=dict.fromkeys(cohort, task_id),
            needed=FEWEST_MEMBERS if self.manifest else 1,
            config_sha256=self.config.sha256,
        )
        answer = self._collect(question)
        SumFolder(self.folder(question.label)).remove()
        return Tally(**{name: round(value) for name, value in answer.numbers.items()}), answer.members

    def _collect(self, question: Question) -> Answer:
        self.steps.refused.clear()
        folder = SumFolder(self.folder(question.label))
        state, agreed = folder.load() or SumState(), dict[str, Any]()
        if self.manifest is None:
            total, state.survivors = self._added(question, state)
        else:
            masked = MaskedSum(self.steps, question, state, folder, self.manifest)
            total, agreed = masked.total(), masked.agreed
        update, numbers = question.layout.opened(total, len(state.survivors))
        return Answer(
            members=state.survivors,
            update=update,
            numbers=numbers,
            state=state,
            bytes_each=total.nbytes,
            agreed=agreed,
        )

    def _added(self, question: Question, state: SumState) -> tuple[Words, tuple[str, ...]]:
        """Add up vectors that are not masked, and return (the total, whose it is)."""
        total, members = np.zeros(question.layout.size, question.layout.grid.dtype), list[str]()

        def take(name: str, content: RecordDict) -> None:
            words = read_part(content, question.task_ids[name], question.layout).words
            np.add(total, words, out=total)
            state.arrived[name] = hashlib.sha256(words.tobytes()).hexdigest()
            members.append(name)

        self.steps.step(question.context.kind, question, state, question.tasks, take)
        self.steps.check_enough(members, question.needed)
        return total, tuple(sorted(members))

    def _needed(self, cohort: int) -> int:
        quorum = self.config.federation.updates_needed(cohort)
        return max(quorum, FEWEST_MEMBERS) if self.manifest else quorum

    def _context(self, task: TrainTask | EvaluateTask, numbers: tuple[str, ...], asked: str = "") -> Context:
        return Context(
            kind="train" if isinstance(task, TrainTask) else "evaluate",
            federation=task.federation,
            round=task.round,
            attempt=task.attempt,
            asked=asked,
            adapter=task.adapter.sha256,
            config=shared_sha256(self.config),
            app="",
            manifest=self.manifest.sha256 if self.manifest else "",
            numbers=numbers,
        )
