"""What does not go together with state that a client keeps from one round to its next, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..adapter.methods import METHODS
from ..errors import ConfigError

if TYPE_CHECKING:
    from .run_config import RunConfig

UNBOUNDED = ("grpo", "dapo", "dr_grpo", "bnpo", "luspo")
"""Losses whose clip does not bound a ratio where the advantage is negative."""
EIGHT_BIT = "8bit"
"""In the name of every optimizer whose moments are rounded to eight bits."""


def check_kept_state(config: RunConfig) -> None:
    """Check that what a client keeps still means something in its next round.

    Raises:
        ConfigError: a setting contradicts it; names both, the reason and what to do.
    """
    if config.train.optimizer_state == "kept":
        _check_moments(config)
    if config.train.replay:
        _check_replay(config)


def _check_replay(config: RunConfig) -> None:
    replay, loss = f"train.replay is {config.train.replay}", config.grpo.loss_type
    if config.dp.on:
        raise ConfigError(
            f"{replay} and dp.noise-multiplier is {config.dp.noise_multiplier:g}: a unit whose groups come back in "
            "later steps is used more often than its epsilon counts. Set replay to 0."
        )
    if loss in UNBOUNDED and config.grpo.delta == 0:
        raise ConfigError(
            f"{replay} and grpo.loss-type is {loss} without grpo.delta: the ratio of a replayed completion below its "
            "group's mean has no upper bound. Set grpo.delta (INTELLECT-2 uses 4), or loss-type cispo."
        )
    if config.backend.uses_vllm:
        raise ConfigError(
            f"{replay} and backend.sampler is {config.backend.sampler}: replay needs the old policy's "
            "log-probabilities from the trainer's own model. Use transformers, or set replay to 0."
        )


def _check_moments(config: RunConfig) -> None:
    name, method = config.method_name, config.method
    if not method.keeps_factors:
        keeping = ", ".join(name for name, method in METHODS.built_in.items() if method.keeps_factors)
        raise ConfigError(
            f"train.optimizer-state is kept and aggregation.method is {name}, whose aggregation changes the basis of "
            "the factors every round: Adam's second moment of a number would be another number's in the next. Use "
            f"fresh, or one of: {keeping}."
        )
    turns = [factor for turn in method.trains for factor in turn]
    if len(turns) != len(set(turns)):
        raise ConfigError(
            f"train.optimizer-state is kept and aggregation.method is {name}, which trains a factor in more than one "
            "of its turns, so that the factors of a turn have taken different numbers of steps. Use fresh."
        )
    if EIGHT_BIT in config.grpo.optim:
        raise ConfigError(
            f"train.optimizer-state is kept and grpo.optim is {config.grpo.optim}, whose moments are rounded in blocks "
            "of its own and cannot be set. Use fresh, or grpo.optim adamw_torch_fused."
        )
