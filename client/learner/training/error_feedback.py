"""A learner whose deltas are clipped and rounded to what travels, and that makes up for the rounding in the next one.

Error feedback (Seide et al. 2014; Karimireddy et al. 2019, arXiv:1901.09847): with e the rest of the last delta that
counted,

    u = clip(delta + e),   sent = Q(u),   e' = u - Q(u)

What clipping takes is not made up for. The server says which round and attempt of ours counted last; the rest of each
round under way lies on the disk by that name, so a round that is void, tried again or resumed after a crash takes up
the right one.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ....common.adapter.adapter import clip_norm, l2_norm
from ....common.adapter.compression import rounded
from ....common.adapter.methods import METHODS
from ....common.adapter.schema import Vector, trained_part, whole_vector
from ....common.errors import DivergedError
from ....common.messages.messages import Capabilities, EvaluateTask, Evaluation, TrainTask, Update
from ....common.seeds import derived_seed
from ....common.settings.run_config import RunConfig
from ....common.storage.atomic import write_atomic
from .. import Learner

LOGGER = logging.getLogger("fedgrpo.client")
SHRINK, MOST_SHRINKS = 0.98, 1000
KEPT_ROUNDS = 2
"""Rests of rounds before the last that counted are kept this long: a server may have to go back."""
MOST_RESTS, MOST_FEDERATIONS = 12, 4
"""... and no more than so many in all, whatever the server says."""


@dataclass(frozen=True)
class CompressingLearner:
    """Between a learner and whatever sends its deltas: a `Learner`."""

    inner: Learner
    config: RunConfig
    folder: Path
    """Where the rests lie: this organisation's own."""
    max_norm: float = float("inf")
    """Longest delta that may be sent."""

    def capabilities(self) -> Capabilities:
        """Who we are."""
        return self.inner.capabilities()

    def evaluate(self, task: EvaluateTask) -> Evaluation:
        """Answer the held-out problems."""
        return self.inner.evaluate(task)

    def train(self, task: TrainTask) -> Update:
        """Train a round; the delta is one that its codec can pack, no longer than `max_norm`."""
        update, settings = self.inner.train(task), self.config.compression
        if not np.isfinite(update.delta).all():
            raise DivergedError("the round ended with an adapter that is not finite; nothing leaves")
        if settings.up == "fp32":
            return replace(update, delta=clip_norm(update.delta, self.max_norm))
        schema, factors = task.adapter.schema, METHODS[self.config.aggregation.method].trains_in(task.round)
        residual = self._residual(task) if settings.error_feedback else np.zeros_like(update.delta)
        wanted = trained_part(schema, clip_norm(update.delta + residual, self.max_norm), factors)
        sent = self._within_norm(wanted, task)
        if settings.error_feedback:
            left = whole_vector(schema, wanted - sent, factors)
            others = residual - whole_vector(schema, trained_part(schema, residual, factors), factors)
            self._keep(task, (left + others).astype(np.float32))
        return replace(update, delta=whole_vector(schema, sent, factors))

    def _within_norm(self, wanted: Vector, task: TrainTask) -> Vector:
        """`wanted`, rounded. Rounding may lengthen a vector by a little: then it is shortened first."""
        settings, scaled = self.config.compression, wanted
        seed = derived_seed(self.config.federation.seed, "rounding", self.capabilities().organisation, task.round)
        for _ in range(MOST_SHRINKS):
            generator = None if settings.error_feedback else np.random.default_rng(seed)
            sent = rounded(scaled, settings.up, top_share=settings.top_share, generator=generator)
            if l2_norm(sent) <= self.max_norm:
                return sent
            scaled = scaled * np.float32(SHRINK)
        return np.zeros_like(wanted)  # a limit that no number on the grid keeps

    def _residual(self, task: TrainTask) -> Vector:
        """What rounding took from our last delta that counted."""
        if task.counted_round == 0:
            return np.zeros_like(task.adapter.vector)
        path = self._file(task.federation, task.counted_round, task.counted_attempt)
        try:
            residual = np.fromfile(path, dtype="<f4").astype(np.float32)
        except OSError:
            residual = np.zeros(0, dtype=np.float32)
        if residual.size != task.adapter.vector.size or not np.isfinite(residual).all():
            LOGGER.warning("what rounding took from round %d is lost: %s", task.counted_round, path.name)
            return np.zeros_like(task.adapter.vector)
        return residual

    def _keep(self, task: TrainTask, residual: Vector) -> None:
        new = self._file(task.federation, task.round, task.attempt)
        new.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(new, residual.astype("<f4", copy=False).tobytes())
        kept = sorted(new.parent.glob("*.rest"), key=lambda path: path.stat().st_mtime_ns)
        old = [path for path in kept if int(path.stem.split("-")[0]) < task.counted_round - KEPT_ROUNDS]
        for path in {*old, *kept[:-MOST_RESTS]} - {new}:
            path.unlink(missing_ok=True)
        for folder in sorted(self.folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)[:-MOST_FEDERATIONS]:
            shutil.rmtree(folder, ignore_errors=True)

    def _file(self, federation: str, number: int, attempt: int) -> Path:
        return self.folder / federation / f"{number}-{attempt}.rest"
