"""A learner whose updates and counts leave only as parts of a sum: weighted, clipped, coded, and masked in `secagg`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ....common import __version__
from ....common.adapter.schema import Vector, trained_part, whole_vector
from ....common.aggregation.weights import WEIGHTS, ClientReport
from ....common.errors import ProtocolError
from ....common.identity.members import threshold_of
from ....common.messages.messages import (
    NO_WORDS,
    Capabilities,
    EvaluateTask,
    Evaluation,
    SecaggReply,
    SecaggRequest,
    SumPart,
    TrainTask,
    Update,
    Words,
)
from ....common.messages.metric_names import TRAIN_METRICS
from ....common.messages.round_work import round_work
from ....common.secagg.grid import Grid, Whole, grid_of
from ....common.secagg.layout import (
    BEYOND,
    CLIPPED,
    EVALUATION_NUMBERS,
    WEIGHT,
    Layout,
    training_numbers,
)
from ....common.secagg.statements import Context
from ....common.seeds import derived_seed
from ....common.settings.run_config import RunConfig
from ....common.settings.scope import shared_sha256
from .. import Learner
from ..privacy.organisation_noise import noise_for_sum
from ..training.error_feedback import Residuals
from .masker import Masker

MOST_MEMBERS = 1000
Note = Callable[[tuple[str, int, int, str], bytes, str], None]
"""((run, round, attempt, hash of the adapter), the vector's bytes, `summed` or `masked`)."""


def nothing_noted(place: tuple[str, int, int, str], data: bytes, form: str) -> None:
    """Keep no receipt."""


@dataclass(frozen=True, kw_only=True)
class SummingLearner:
    """Makes parts of sums from the results of another learner, which may be behind a policy."""

    inner: Learner
    """Its updates are not compressed."""
    config: RunConfig
    residuals: Residuals
    """What coding took from updates, where `compression.up` is `int8`."""
    masker: Masker | None = None
    """None where the parts are not masked (privacy.mode is `sum`)."""
    note: Note = nothing_noted
    """Told of every vector of a training before it leaves, for the organisation's receipts."""
    app: str = ""
    """SHA-256 of the app bundle that the run came with, which this organisation accepts; empty in a simulation."""

    def capabilities(self) -> Capabilities:
        """Return the capabilities of the inner learner; where masks hide sizes and rewards, without those."""
        capabilities = self.inner.capabilities()
        if self.masker is None:
            return capabilities
        metrics = tuple(name for name in capabilities.metrics if name in TRAIN_METRICS)
        return replace(capabilities, examples=0, prompts_too_long=0, held_out=0, reward_names=(), metrics=metrics)

    def train(self, task: TrainTask) -> Update:
        """Refuse: an update leaves only as part of a sum."""
        raise _not_alone()

    def evaluate(self, task: EvaluateTask) -> Evaluation:
        """Refuse: counts leave only as part of a sum."""
        raise _not_alone()

    def part(self, task: TrainTask | EvaluateTask) -> SumPart:
        """Do a task, and return its result as part of a sum: in `secagg` only the keys, and the vector stays here.

        Raises:
            ProtocolError: the task does not fit the federation: the members, the metrics or the grid.
        """
        self._check_members(task.members)
        if isinstance(task, TrainTask):
            vector, numbers = self._trained(task)
        else:
            vector, numbers = self._counted(task)
        if self.masker is None:
            if isinstance(task, TrainTask):
                place = task.federation, task.round, task.attempt, task.adapter.sha256
                self.note(place, vector.tobytes(), "summed")
            return SumPart(words=vector)
        return SumPart(words=NO_WORDS, bundle=self.masker.begin(self._context(task, numbers), vector))

    def step(self, request: SecaggRequest) -> SecaggReply:
        """Take the next step of a sum that has begun."""
        if self.masker is None:
            raise ProtocolError("secagg.step", "nothing is masked in this run")
        reply, context = self.masker.step(request), self.masker.sessions.get(request.session).context
        if reply.words.size and context.kind == "train":
            place = context.federation, context.round, context.attempt, context.adapter
            self.note(place, reply.words.tobytes(), "masked")
        return reply

    def _trained(self, task: TrainTask) -> tuple[Words, tuple[str, ...]]:
        """Return (the coded update and the numbers beside it, their names)."""
        update, schema = self.inner.train(task), task.adapter.schema
        if missing := sorted(set(task.summed_metrics) - set(update.metrics)):
            raise ProtocolError("secagg.metrics", f"{missing[0]} may not leave, not even in a sum")
        factors = self.config.method.trains_in(task.round)
        layout = Layout(
            coordinates=schema.size_of(factors),
            numbers=training_numbers(task.summed_metrics),
            grid=grid_of(self.config, task.members),
        )
        weight = self._weight(update)
        whole, clipped, beyond = self._coded(task, update.delta, weight, layout)
        if self.config.privacy.noise_multiplier:
            whole, clipped, beyond = self._noisy(whole, task, layout.grid), False, 0  # counts would have no noise
        beside = {WEIGHT: weight, CLIPPED: float(clipped), BEYOND: float(beyond)}
        return layout.words(whole, {**update.metrics, **beside}), layout.numbers

    def _counted(self, task: EvaluateTask) -> tuple[Words, tuple[str, ...]]:
        if task.against:  # asked of one member alone, the counts of the comparison would be that member's alone
            raise ProtocolError("secagg.against", "answers are not compared with another adapter's where sums are seen")
        total = self.inner.evaluate(task).total
        layout = Layout(coordinates=0, numbers=EVALUATION_NUMBERS, grid=grid_of(self.config, task.members))
        counts = {name: float(getattr(total, name)) for name in EVALUATION_NUMBERS}
        return layout.words(np.zeros(0, dtype=np.int64), counts), layout.numbers

    def _weight(self, update: Update) -> float:
        """Return the update's weight as a share of the largest that a client can have, from 0 to 1."""
        rule = WEIGHTS[self.config.aggregation.weights]
        assert rule.most is not None  # checked with the settings
        work = round_work(update.num_examples, self.config)
        report = ClientReport(metrics=update.metrics, num_examples=update.num_examples, num_steps=update.num_steps)
        return min(1.0, rule.of(report) / rule.most(work.groups, work.tokens))

    def _coded(self, task: TrainTask, delta: Vector, weight: float, layout: Layout) -> tuple[Whole, bool, int]:
        """Return (w * delta on the grid, whether it was clipped, how many numbers were beyond the grid's end)."""
        schema, feedback = task.adapter.schema, self.config.compression.up != "fp32" and self.config.feeds_back
        factors = self.config.method.trains_in(task.round)
        residual = self.residuals.load(task) if feedback else np.zeros_like(delta)
        target = trained_part(schema, delta, factors).astype(np.float64) * weight
        norm, limit = float(np.linalg.norm(target)), self.config.privacy.clip_norm  # in float64: the grid ends there
        clipped = norm > limit
        target = (target * (limit / norm) if clipped else target) + trained_part(schema, residual, factors)
        whole, beyond = layout.grid.coded(target, None if feedback else self._generator(task))
        if feedback:
            lost = whole_vector(schema, (target - layout.grid.values(whole)).astype(np.float32), factors)
            untrained = residual - whole_vector(schema, trained_part(schema, residual, factors), factors)
            self.residuals.keep(task, (lost + untrained).astype(np.float32))
        return whole, clipped, beyond

    def _noisy(self, whole: Whole, task: TrainTask, grid: Grid) -> Whole:
        """Return a coded update with this member's share of the noise.

        An update is at most clip-norm / step long, and rounding adds less than a step to each number.
        """
        if task.summed_metrics:
            raise ProtocolError("secagg.metrics", "metrics are added up without noise, and may not leave with it")
        longest = self.config.privacy.clip_norm / grid.step + math.sqrt(whole.size)
        sigma = self.config.privacy.noise_multiplier * longest
        noisy = whole + noise_for_sum(whole.size, sigma, threshold_of(task.members))
        if int(np.abs(noisy).max(initial=0)) > grid.levels:
            raise ProtocolError("secagg.noise", "the noise is beyond the grid's end, which all but never happens")
        return noisy

    def _generator(self, task: TrainTask) -> np.random.Generator:
        name = self.inner.capabilities().organisation
        return np.random.default_rng(derived_seed(self.config.federation.seed, "grid", name, task.round))

    def _check_members(self, members: int) -> None:
        most = MOST_MEMBERS if self.masker is None else len(self.masker.manifest.members)
        if not 1 <= members <= most or (self.masker is not None and members != most):
            raise ProtocolError("secagg.members", f"the task is of {members} members; the manifest has {most}")

    def _context(self, task: TrainTask | EvaluateTask, numbers: tuple[str, ...]) -> Context:
        assert self.masker is not None
        training = isinstance(task, TrainTask)
        return Context(
            kind="train" if training else "evaluate",
            federation=task.federation,
            round=task.round,
            attempt=task.attempt,
            asked="" if training else "greedy" if task.temperature == 0 else "sampled",
            adapter=task.adapter.sha256,
            config=shared_sha256(self.config),
            app=f"fedgrpo {__version__} {self.app}".rstrip(),
            manifest=self.masker.manifest.sha256,
            numbers=numbers,
        )


def _not_alone() -> ProtocolError:
    return ProtocolError("privacy", "what this client learned leaves only as part of a sum (privacy.mode)")
