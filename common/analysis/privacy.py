"""What a run has cost in privacy, in words: for its summary, its report and its model card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..settings.run_config import RunConfig


def highest_epsilon(reported: Iterable[Mapping[str, float]]) -> float | None:
    """Return the highest epsilon among what clients reported; None if none of them did."""
    return max((metrics["privacy/epsilon"] for metrics in reported if "privacy/epsilon" in metrics), default=None)


def privacy_in_words(config: RunConfig, epsilon: float | None) -> str:
    """Return a sentence on differential privacy; empty for a run without it.

    Args:
        epsilon: the highest that a client reported.
    """
    if not config.dp.on:
        return ""
    spent = (
        f"epsilon {epsilon:.2f} at delta {config.dp.delta:g} is the most that a client reported to have spent, in all "
        "its runs together"
        if epsilon is not None
        else "no client reported what it has spent"
    )
    return (
        f"Differential privacy: noise of {config.dp.noise_multiplier:g} clip norms on the gradients of each step; "
        f"{spent}. It protects the units of one organisation (docs/privacy.md)."
    )
