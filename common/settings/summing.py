"""What does not go together with a sum of updates (privacy.mode `sum` and `secagg`), and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..adapter.methods import METHODS
from ..aggregation.weights import WEIGHTS
from ..errors import ConfigError

if TYPE_CHECKING:
    from .run_config import RunConfig

CODECS = ("fp32", "int8")
FEWEST_MEMBERS = 3


def check_summing(config: RunConfig) -> None:
    """Check that a run whose updates are only seen in a sum needs nothing but the sum.

    Raises:
        ConfigError: a setting contradicts it; names both, the reason and what to do.
    """
    if config.privacy.mode == "none":
        if config.privacy.noise_multiplier:
            raise ConfigError(
                f"privacy.noise-multiplier is {config.privacy.noise_multiplier:g} and privacy.mode is none: the noise "
                "of all members hides one, but each update would be seen with its own part of it. Use secagg."
            )
        return
    if config.privacy.noise_multiplier:
        _check_noise(config)
    linear = ", ".join(name for name, method in METHODS.built_in.items() if method.linear)
    possible = ", ".join(name for name, weight in WEIGHTS.built_in.items() if weight.most)
    aggregation, mode = config.aggregation, f"privacy.mode is {config.privacy.mode}"
    complaints = (
        (
            not config.method.linear,
            f"aggregation.method is {config.method_name}, which needs each update: {mode}, and only their sum is seen. "
            f"Use one of: {linear}",
        ),
        (
            WEIGHTS[aggregation.weights].most is None,
            f"aggregation.weights is {aggregation.weights}, which compares each client with its own past: {mode}, and "
            f"nothing of a single client is seen. Use one of: {possible}",
        ),
        (
            aggregation.rule != "mean" or aggregation.hostile > 0,
            f"aggregation.rule is {aggregation.rule} and aggregation.hostile is {aggregation.hostile}: robust rules "
            f"compare single updates, and {mode}. Use mean and 0; privacy.clip-norm still limits each update",
        ),
        (
            config.gate.enabled,
            f"gate.enabled compares the answers of single clients, and {mode}. Turn one of the two off",
        ),
        (
            config.intake.clip_to_median > 0,
            f"intake.clip-to-median is {config.intake.clip_to_median:g}, which needs each update's norm, and {mode}. "
            "Set it to 0; privacy.clip-norm limits each update",
        ),
        (
            config.train.min_signal > 0,
            f"train.min-signal is {config.train.min_signal:g}: steps would differ by client and tell of its rewards: "
            f"{mode}. Set it to 0",
        ),
        (
            config.train.seconds_per_round > 0,
            f"train.seconds-per-round is {config.train.seconds_per_round:g}: steps would differ by "
            f"client, and {mode}. Set it to 0",
        ),
        (
            config.compression.up not in CODECS,
            f"compression.up is {config.compression.up}, whose grid differs by client: {mode}, and only numbers of one "
            f"grid can be added up. Use one of: {', '.join(CODECS)}",
        ),
        (
            len(set(config.simulation.ranks.split(";"))) > 1,
            f"simulation.ranks is {config.simulation.ranks}: updates of different lengths cannot be added up, and "
            f"{mode}. Use one rank",
        ),
        (
            config.privacy.mode == "secagg" and 0 < config.federation.clients_per_round < FEWEST_MEMBERS,
            f"federation.clients-per-round is {config.federation.clients_per_round}, and {mode}: the sum of fewer than "
            f"{FEWEST_MEMBERS} tells one member another's update. Use more, or 0 for all",
        ),
    )
    for contradiction, text in complaints:
        if contradiction:
            raise ConfigError(f"{text}.")


def _check_noise(config: RunConfig) -> None:
    """Check that nothing but the noisy sum of the updates leaves, and that the grid has room for the noise."""
    why = f"privacy.noise-multiplier is {config.privacy.noise_multiplier:g}"
    if config.aggregation.weights not in ("uniform", "examples"):
        raise ConfigError(
            f"aggregation.weights is {config.aggregation.weights} and {why}: weights are added up without noise, and "
            "tell of an organisation what the noise hides. Use uniform or examples."
        )
    if config.compression.up != "fp32":
        raise ConfigError(
            f"compression.up is {config.compression.up} and {why}: its grid of few levels has no room for noise. "
            "Use fp32."
        )
