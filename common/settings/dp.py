"""The settings of differential privacy: what each organisation's learner clips, adds and samples by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..bounds import at_least, between
from ..errors import ConfigError

if TYPE_CHECKING:
    from .run_config import RunConfig

LEAST_NOISE, MOST_NOISE = 0.2, 1e4
"""A step with less noise costs an epsilon of more than 10, and accounting for it would need gigabytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DP:
    """Differentially private GRPO: DP-SGD (Abadi et al. 2016, arXiv:1607.00133) on groups of completions.

    A step takes each unit (a prompt, or all prompts of a patient) with the same probability. The gradient of each
    unit's whole groups is scaled down to clip-norm, the sum gets Gaussian noise, and is divided by the number of units
    that a step has on average: the prompts of a step, as the settings of [grpo] make them.
    """

    noise_multiplier: float = 0.0
    """Standard deviation of the noise on a step's sum of gradients, in units of clip-norm; 0 trains without privacy."""
    clip_norm: float = 1.0
    """Largest L2 norm of one unit's gradient, over all trained factors."""
    delta: float = 1e-5
    """Epsilon is stated for this delta. Keep it well below 1 / units."""
    prompts_per_unit: int = 4
    """Most prompts of one unit in a step, chosen at random where it has more. It bounds work, not privacy."""

    @property
    def on(self) -> bool:
        """Whether local training is private."""
        return self.noise_multiplier > 0

    def __post_init__(self) -> None:
        if self.noise_multiplier != 0:
            why = "0 trains without privacy, and less noise than that hides nothing"
            between("dp.noise-multiplier", self.noise_multiplier, LEAST_NOISE, MOST_NOISE, why)
        between("dp.clip-norm", self.clip_norm, 0.0, 1e6, "gradients are scaled down to this norm", open_low=True)
        between(
            "dp.delta",
            self.delta,
            0.0,
            0.1,
            "it bounds the probability that the guarantee fails",
            open_low=True,
            open_high=True,
        )
        at_least("dp.prompts-per-unit", self.prompts_per_unit, 1, "a unit has at least one prompt")


def check_dp(config: RunConfig) -> None:
    """Refuse a private run whose settings would let one unit change the gradient by more than dp.clip-norm, or let
    something out that epsilon does not cover.

    Raises:
        ConfigError: names the setting and the reason.
    """
    if not config.dp.on:
        return
    for key, value, allowed, why in _constraints(config):
        if value not in allowed:
            raise ConfigError(
                f"{key} is {value} and dp.noise-multiplier is {config.dp.noise_multiplier:g}: {why}. Set {key} to "
                f"{' or '.join(str(each) for each in allowed)}, or dp.noise-multiplier to 0."
            )


def _constraints(config: RunConfig) -> Iterator[tuple[str, object, tuple[object, ...], str]]:
    """Yield (setting, its value, the values it may have with noise, why)."""
    grpo, train = config.grpo, config.train
    why = "the other losses divide by tokens of the whole batch, so one unit changes the gradients of all"
    yield "grpo.loss-type", grpo.loss_type, ("dr_grpo", "grpo"), why
    why = "the spread of the whole batch would scale every unit's advantages by what one unit earns"
    yield "grpo.scale-rewards", grpo.scale_rewards, ("none", "group"), why
    why = "the sum is then scaled by mean and spread over the whole batch"
    yield "grpo.multi-objective-aggregation", grpo.multi_objective_aggregation, ("sum_then_normalize",), why
    why = "a batch that is used again has not been sampled anew, which epsilon assumes of each step"
    yield "grpo.num-iterations", grpo.num_iterations, (1,), why
    why = "a count of prompts, tokens or rewards that leaves tells of single prompts, and epsilon does not cover it"
    yield "aggregation.weights", config.aggregation.weights, ("uniform", "examples"), why
    why = "how many steps fit depends on the completions, and leaves"
    yield "train.seconds-per-round", train.seconds_per_round, (0.0,), why
    why = "epsilon assumes that a step takes each unit with the same probability, whatever it has shown"
    yield "train.prompt-selection", train.prompt_selection, ("order",), why
    why = "how many steps it leaves depends on the rewards, and leaves"
    yield "train.min-signal", train.min_signal, (0.0,), why
    why = "a step takes each unit by chance and not in blocks"
    yield "train.block-size", train.block_size, (0, 1), why
    why = "its patched model is not checked against a plain gradient of each unit"
    yield "backend.loader", config.backend.loader, ("transformers",), why
