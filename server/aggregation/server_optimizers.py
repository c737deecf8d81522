"""The server's optimizers, which treat the mean delta as a gradient (FedOpt, Reddi et al. 2021, arXiv:2003.00295).

Pairs of pure functions, `init` and `apply`; their memory is part of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from ...common.settings.aggregation import Aggregation
from .state import Memory

Wide = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Optimizer:
    """One server optimizer."""

    init: Callable[[int], Memory]
    """Returns the memory before the first round, for vectors of a size."""
    apply: Callable[[Wide, Memory, Aggregation], tuple[Wide, Memory]]
    """Returns (step, new memory) for a mean delta."""


def _sgd(move: Wide, memory: Memory, settings: Aggregation) -> tuple[Wide, Memory]:
    """eta * delta: federated averaging, where eta is 1."""
    return settings.server_learning_rate * move, memory


def _momentum(move: Wide, memory: Memory, settings: Aggregation) -> tuple[Wide, Memory]:
    """m = beta m + delta; eta * m (FedAvgM, Hsu et al. 2019, arXiv:1909.06335)."""
    mean = settings.server_momentum * memory["mean"] + move
    return settings.server_learning_rate * mean, {"mean": mean}


def _nesterov(move: Wide, memory: Memory, settings: Aggregation) -> tuple[Wide, Memory]:
    """m = beta m + delta; eta * (delta + beta m) (as DiLoCo does, Douillard et al. 2023, arXiv:2311.08105)."""
    mean = settings.server_momentum * memory["mean"] + move
    return settings.server_learning_rate * (move + settings.server_momentum * mean), {"mean": mean}


def _adam(move: Wide, memory: Memory, settings: Aggregation) -> tuple[Wide, Memory]:
    """m = b1 m + (1 - b1) delta; v = b2 v + (1 - b2) delta^2; eta * m / (sqrt(v) + epsilon) (FedAdam, algorithm 2)."""
    b1, b2 = settings.server_momentum, settings.server_beta2
    mean = b1 * memory["mean"] + (1 - b1) * move
    square = b2 * memory["square"] + (1 - b2) * move**2
    step = settings.server_learning_rate * mean / (np.sqrt(square) + settings.server_epsilon)
    return step, {"mean": mean, "square": square}


def _zeros(*names: str) -> Callable[[int], Memory]:
    return lambda size: {name: np.zeros(size) for name in names}


SERVER_OPTIMIZERS: Mapping[str, Optimizer] = MappingProxyType(
    {
        "sgd": Optimizer(_zeros(), _sgd),
        "momentum": Optimizer(_zeros("mean"), _momentum),
        "nesterov": Optimizer(_zeros("mean"), _nesterov),
        "adam": Optimizer(_zeros("mean", "square"), _adam),
    }
)
