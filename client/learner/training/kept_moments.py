"""Adam's second moment, kept from one round of a client to its next (train.optimizer-state = "kept").

A round's few local steps see few gradients: an Adam that starts empty divides the first of them by its own size, which
is nearly sign descent. FedAdamW (arXiv:2510.27486) therefore carries the second moment v over rounds and restarts only
the first, m, whose direction belongs to the trajectory that aggregation has just left. With k the step within the round
and t the client's steps in all rounds that counted and this one,

    m_k = b1 m_{k-1} + (1 - b1) g,   m_0 = 0;     v_t = b2 v_{t-1} + (1 - b2) g^2
    w  -=  lr * (m_k / (1 - b1^k)) / (sqrt(v_t / (1 - b2^t)) + epsilon)

(algorithm 1 there, but for its `alpha` term and for the mean of v over clients: here v stays at the client.) torch's
AdamW has one step count for both corrections. It is given t, and its learning rate is multiplied by
(1 - b1^t) / (1 - b1^k), and its weight decay divided by it, while it takes a step.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ....common.adapter.schema import AdapterSchema, Key, Vector, split
from ....common.foreign import safe_logger
from ....common.messages.messages import TrainTask
from .round_files import RoundFiles

LOGGER = safe_logger("fedgrpo.client")
Parameters = Mapping[Key, torch.nn.Parameter]


@dataclass(frozen=True, slots=True)
class SecondMoment:
    """Adam's v without bias correction, and the number of steps in it."""

    square: Vector
    """Laid out as the client's adapter."""
    steps: dict[str, int]
    """Steps by factor: those that do not train in a round stay as they are."""

    @classmethod
    def none(cls, schema: AdapterSchema) -> SecondMoment:
        """Return the moment before the first step."""
        return cls(np.zeros(schema.size, dtype=np.float32), dict.fromkeys(schema.holds, 0))


class KeptMoments:
    """The second moments of an organisation's rounds, on its disk."""

    def __init__(self, folder: Path) -> None:
        self._files = RoundFiles(folder, "moments")

    def load(self, task: TrainTask) -> SecondMoment:
        """Return the moment after the last round that counted; an empty one if there is none, or it is lost."""
        schema, path = task.adapter.schema, self._files.counted(task)
        if path is None:
            return SecondMoment.none(schema)
        try:
            return _read(path, schema)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            LOGGER.warning("Adam's second moment of round %d is lost: %s", task.counted_round, path.name)
            return SecondMoment.none(schema)

    def keep(self, task: TrainTask, moment: SecondMoment) -> None:
        """Save the moment after a round under way."""
        data = io.BytesIO()
        steps = np.array([moment.steps[factor] for factor in task.adapter.schema.holds], dtype="<i8")
        np.savez(data, square=moment.square.astype("<f4", copy=False), steps=steps)
        self._files.keep(task, data.getvalue())


def _read(path: Path, schema: AdapterSchema) -> SecondMoment:
    with np.load(path, allow_pickle=False) as file:
        square, steps = file["square"].astype(np.float32), [int(count) for count in file["steps"]]
    sound = square.shape == (schema.size,) and np.isfinite(square).all() and (square >= 0).all()
    if not sound or len(steps) != len(schema.holds) or min(steps) < 0:
        raise ValueError("not a second moment of this adapter")
    return SecondMoment(square, dict(zip(schema.holds, steps, strict=True)))


def resume(
    optimizer: torch.optim.Optimizer, parameters: Parameters, moment: SecondMoment, schema: AdapterSchema
) -> None:
    """Have a new AdamW go on from a second moment, with an empty first one.

    Args:
        parameters: the factors that train, all of which have taken equally many steps (`RunConfig` sees to it).
    """
    squares = split(schema, moment.square)
    steps = {moment.steps[factor] for _, factor in parameters}
    assert len(steps) == 1, "the factors of one turn take their steps together"
    before = steps.pop()
    if before == 0:
        return
    for key, parameter in parameters.items():
        square = torch.from_numpy(squares[key].copy()).to(parameter)
        count = torch.tensor(float(before), dtype=torch.float32, device=parameter.device)
        optimizer.state[parameter] = {"step": count, "exp_avg": torch.zeros_like(square), "exp_avg_sq": square}
    _restart_first_moment(optimizer, before)


def _restart_first_moment(optimizer: torch.optim.Optimizer, before: int) -> None:
    """Correct the bias of the first moment by the steps of this round alone, while a step is taken."""
    taken, own = 0, [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups]

    def prepare(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        nonlocal taken, own
        taken += 1
        own = [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            decay = group["betas"][0]
            ratio = (1 - decay ** (before + taken)) / (1 - decay**taken)
            group["lr"], group["weight_decay"] = group["lr"] * ratio, group["weight_decay"] / ratio

    def restore(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group, (rate, decay) in zip(optimizer.param_groups, own, strict=True):
            group["lr"], group["weight_decay"] = rate, decay

    optimizer.register_step_pre_hook(prepare)
    optimizer.register_step_post_hook(restore)


def second_moment(
    optimizer: torch.optim.Optimizer, parameters: Parameters, before: SecondMoment, schema: AdapterSchema
) -> SecondMoment:
    """Return the second moment after a round; factors that did not train in it keep theirs."""
    square, steps = before.square.copy(), dict(before.steps)
    parts = split(schema, square)
    for key, parameter in parameters.items():
        state = optimizer.state[parameter]
        parts[key][...] = state["exp_avg_sq"].detach().float().cpu().numpy()
        steps[key[1]] = int(state["step"])
    return SecondMoment(square, steps)
