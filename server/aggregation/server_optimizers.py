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
    """m = beta m + (1 - beta) delta; eta * m / (1 - beta^t) (FedAvgM, Hsu et al. 2019, arXiv:1909.06335).

    Damped, which the paper's is not: once m is steady, a step of eta = 1 is the mean delta, and not 1 / (1 - beta)
    times that. With `server-accumulate` sum it is the paper's: m = beta m + delta; eta * m.
    """
    memory = _accumulated(move, memory, settings)
    return settings.server_learning_rate * memory["mean"] / memory["weight"], memory


def _nesterov(move: Wide, memory: Memory, settings: Aggregation) -> tuple[Wide, Memory]:
    """m as above, and its next value if the same delta came again: eta * (beta m + (1 - beta) delta) / (1 - beta^(t+1))
    (DiLoCo, Douillard et al. 2023, arXiv:2311.08105, damped).

    With `server-accumulate` sum it is DiLoCo's own, which is torch's SGD(nesterov=True) on -delta: m = beta m + delta;
    eta * (delta + beta m). DiLoCo has eta 0.7 and beta 0.9.
    """
    memory = _accumulated(move, memory, settings)
    ahead = _accumulated(move, memory, settings)
    return settings.server_learning_rate * ahead["mean"] / ahead["weight"], memory


def _adam(move: Wide, memory: Memory, settings: Aggregation) -> tuple[Wide, Memory]:
    """The direction of FedAdam (Reddi et al. 2021, algorithm 2), at the length of the running mean of deltas.

        m = b1 m + (1 - b1) delta;  v = b2 v + (1 - b2) delta^2;  both divided by the sums of their weights
        d = m / (sqrt(v) + epsilon * rms(sqrt(v)));  eta * ||m|| / ||d|| * d

    FedAdam's own step has eta in each coordinate, whatever the deltas' size, and its epsilon is in their units. Deltas
    of a real model and of a small one differ by factors of a thousand, and no eta fits both; relative ones do.
    """
    b2 = settings.server_beta2
    kept = _averaged(move, memory, settings.server_momentum)
    square = b2 * memory["square"] + (1 - b2) * move**2
    weight = b2 * memory["square-weight"] + (1 - b2)
    root, mean = np.sqrt(square / weight), kept["mean"] / kept["weight"]
    direction = np.divide(mean, root + settings.server_epsilon * _rms(root), out=np.zeros_like(mean), where=root > 0)
    length = _rms(direction)
    step = settings.server_learning_rate * (_rms(mean) / length if length else 0.0) * direction
    return step, {**kept, "square": square, "square-weight": weight}


def _accumulated(move: Wide, memory: Memory, settings: Aggregation) -> Memory:
    """Return the running mean, or the decaying sum, whose weight is 1 so that it is taken as it is."""
    if settings.server_accumulate == "mean":
        return _averaged(move, memory, settings.server_momentum)
    return {"mean": settings.server_momentum * memory["mean"] + move, "weight": np.ones(1)}


def _averaged(move: Wide, memory: Memory, decay: float) -> Memory:
    """Return the running mean and the sum of its weights, 1 - decay^t, after one more delta."""
    mean = decay * memory["mean"] + (1 - decay) * move
    return {"mean": mean, "weight": decay * memory["weight"] + (1 - decay)}


def _rms(vector: Wide) -> float:
    return float(np.sqrt(np.mean(vector**2)))


def _zeros(*names: str) -> Callable[[int], Memory]:
    return lambda size: {name: np.zeros(1 if name.endswith("weight") else size) for name in names}


SERVER_OPTIMIZERS: Mapping[str, Optimizer] = MappingProxyType(
    {
        "sgd": Optimizer(_zeros(), _sgd),
        "momentum": Optimizer(_zeros("mean", "weight"), _momentum),
        "nesterov": Optimizer(_zeros("mean", "weight"), _nesterov),
        "adam": Optimizer(_zeros("mean", "weight", "square", "square-weight"), _adam),
    }
)
