"""Compression of a learner's deltas: clipped, rounded to the codec's grid, with error feedback.

Error feedback (Seide et al. 2014; Karimireddy et al. 2019, arXiv:1901.09847): with e the residual of the last delta
that counted,

    u = clip(delta + e),   sent = Q(u),   e' = u - Q(u)

Clipping is not compensated. The server says which round and attempt of this client counted last. The residual of each
round under way is on disk under that name, so a round that is void, repeated or resumed after a crash uses the right
one. Methods whose aggregation changes the factors (`Method.keeps_factors`) have no error feedback: e would be added to
factors that it was not taken from.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ....common.adapter.adapter import clip_norm, l2_norm
from ....common.adapter.compression import rounded
from ....common.adapter.methods import METHODS
from ....common.adapter.schema import Vector, trained_part, whole_vector
from ....common.errors import DivergedError
from ....common.foreign import safe_logger
from ....common.messages.messages import Capabilities, EvaluateTask, Evaluation, TrainTask, Update
from ....common.seeds import derived_seed
from ....common.settings.run_config import RunConfig
from ....common.storage.atomic import PRIVATE, write_atomic
from .. import Learner

LOGGER = safe_logger("fedgrpo.client")
SHRINK, MOST_SHRINKS = 0.98, 1000
KEPT_ROUNDS = 2
"""Residuals of this many rounds before the last that counted are kept: a server may have to go back."""
MOST_RESIDUALS, MOST_FEDERATIONS = 12, 4
"""Limits on residuals per federation and on federations, which hold whatever the server says."""


class Residuals:
    """What rounding took from an organisation's deltas, on its disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, task: TrainTask) -> Vector:
        """Return the compression error of the last delta that counted; zeros if there is none."""
        if task.counted_round == 0:
            return np.zeros_like(task.adapter.vector)
        path = self._file(task.federation, task.counted_round, task.counted_attempt)
        try:
            residual = np.fromfile(path, dtype="<f4").astype(np.float32)
        except OSError:
            residual = np.zeros(0, dtype=np.float32)
        if residual.size != task.adapter.vector.size or not np.isfinite(residual).all():
            LOGGER.warning("the error feedback residual of round %d is lost: %s", task.counted_round, path.name)
            return np.zeros_like(task.adapter.vector)
        return residual

    def keep(self, task: TrainTask, residual: Vector) -> None:
        """Save the residual of a round under way, and remove those that the server can no longer ask for."""
        new = self._file(task.federation, task.round, task.attempt)
        new.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(new, residual.astype("<f4", copy=False).tobytes(), PRIVATE)
        kept = sorted(new.parent.glob("*.rest"), key=lambda path: path.stat().st_mtime_ns)
        old = [path for path in kept if int(path.stem.split("-")[0]) < task.counted_round - KEPT_ROUNDS]
        counted = self._file(task.federation, task.counted_round, task.counted_attempt)
        for path in {*old, *kept[:-MOST_RESIDUALS]} - {new, counted}:  # the next attempt may need `counted` again
            path.unlink(missing_ok=True)
        for folder in sorted(self._folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)[:-MOST_FEDERATIONS]:
            shutil.rmtree(folder, ignore_errors=True)

    def _file(self, federation: str, number: int, attempt: int) -> Path:
        return self._folder / federation / f"{number}-{attempt}.rest"


@dataclass(frozen=True)
class CompressingLearner:
    """A `Learner` that compresses the deltas of another one."""

    inner: Learner
    config: RunConfig
    residuals: Residuals
    max_norm: float = float("inf")
    """L2 norm of the longest delta that may be sent."""

    def capabilities(self) -> Capabilities:
        """Return the capabilities of the inner learner."""
        return self.inner.capabilities()

    def evaluate(self, task: EvaluateTask) -> Evaluation:
        """Answer the held-out problems with the inner learner."""
        return self.inner.evaluate(task)

    def train(self, task: TrainTask) -> Update:
        """Train a round, and return a delta that the codec can pack and whose norm is at most `max_norm`."""
        update, settings = self.inner.train(task), self.config.compression
        if not np.isfinite(update.delta).all():
            raise DivergedError("the adapter is not finite at the end of the round; no update is sent")
        if settings.up == "fp32" or self.config.privacy.mode != "none":  # the grid of a sum rounds later
            return replace(update, delta=clip_norm(update.delta, self.max_norm))
        schema, method = task.adapter.schema, METHODS[self.config.aggregation.method]
        factors, feedback = method.trains_in(task.round), self.config.feeds_back
        residual = self.residuals.load(task) if feedback else np.zeros_like(update.delta)
        target = trained_part(schema, clip_norm(update.delta + residual, self.max_norm), factors)
        sent = self._within_norm(target, task)
        if feedback:
            lost = whole_vector(schema, target - sent, factors)
            untrained = residual - whole_vector(schema, trained_part(schema, residual, factors), factors)
            self.residuals.keep(task, (lost + untrained).astype(np.float32))
        return replace(update, delta=whole_vector(schema, sent, factors))

    def _within_norm(self, target: Vector, task: TrainTask) -> Vector:
        """Return the rounded `target`, shortened first if rounding would make it longer than `max_norm`."""
        settings, scaled = self.config.compression, target
        seed = derived_seed(self.config.federation.seed, "rounding", self.capabilities().organisation, task.round)
        for _ in range(MOST_SHRINKS):
            generator = None if self.config.feeds_back else np.random.default_rng(seed)
            sent = rounded(scaled, settings.up, top_share=settings.top_share, generator=generator)
            if l2_norm(sent) <= self.max_norm:
                return sent
            scaled = scaled * np.float32(SHRINK)
        return np.zeros_like(target)  # the limit is smaller than every non-zero vector on the grid
