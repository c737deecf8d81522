"""Compression of a learner's deltas: clipped, rounded to the codec's grid, with error feedback.

Error feedback (Seide et al. 2014; Karimireddy et al. 2019, arXiv:1901.09847): with e the residual of the last delta
that counted,

    u = clip(delta + e),   sent = Q(u),   e' = u - Q(u)

Clipping is not compensated. Residuals are kept by round and attempt (`round_files`), so a round that is void, repeated
or resumed after a crash uses the right one. Methods whose aggregation changes the factors (`Method.keeps_factors`) have
no error feedback: e would be added to factors that it was not taken from.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ....common.adapter.adapter import clip_norm, l2_norm
from ....common.adapter.compression import rounded
from ....common.adapter.schema import Vector, trained_part, whole_vector
from ....common.errors import DivergedError
from ....common.foreign import safe_logger
from ....common.messages.messages import Capabilities, EvaluateTask, Evaluation, TrainTask, Update
from ....common.seeds import derived_seed
from ....common.settings.run_config import RunConfig
from .. import Learner
from .round_files import RoundFiles

LOGGER = safe_logger("fedgrpo.client")
SHRINK, MOST_SHRINKS = 0.98, 1000


class Residuals:
    """What rounding took from an organisation's deltas, on its disk."""

    def __init__(self, folder: Path) -> None:
        self._files = RoundFiles(folder, "rest")

    def load(self, task: TrainTask) -> Vector:
        """Return the compression error of the last delta that counted; zeros if there is none."""
        path = self._files.counted(task)
        if path is None:
            return np.zeros_like(task.adapter.vector)
        try:
            residual = np.fromfile(path, dtype="<f4").astype(np.float32)
        except OSError:
            residual = np.zeros(0, dtype=np.float32)
        if residual.size != task.adapter.vector.size or not np.isfinite(residual).all():
            LOGGER.warning("the error feedback residual of round %d is lost: %s", task.counted_round, path.name)
            return np.zeros_like(task.adapter.vector)
        return residual

    def keep(self, task: TrainTask, residual: Vector) -> None:
        """Save the residual of a round under way."""
        self._files.keep(task, residual.astype("<f4", copy=False).tobytes())


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
        schema, method = task.adapter.schema, self.config.method
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
