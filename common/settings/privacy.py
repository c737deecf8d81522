"""The settings of what the server may see of an update."""

from __future__ import annotations

from dataclasses import dataclass

from ..bounds import at_least, between, one_of

MODES = ("none", "sum", "secagg")


@dataclass(frozen=True, slots=True, kw_only=True)
class Privacy:
    """What the server sees of each organisation's update."""

    mode: str = "none"
    """`none`: each update in the clear. `secagg`: secure aggregation, so that only the sum over all members is seen.
    `sum`: coded and added up as for secagg, but without masks, which protects nothing and is for comparing the two."""
    clip_norm: float = 10.0
    """Largest L2 norm of a weighted update in `secagg` and `sum`; a longer one is scaled down, and counted. The finest
    grid on which the sum of all members cannot overflow follows from it."""

    noise_multiplier: float = 0.0
    """Standard deviation of noise on the sum of all updates, in units of clip-norm: it hides what one organisation's
    updates were, at a price that is said before the run. 0 adds none."""
    delta: float = 1e-5
    """Epsilon of that noise is stated for this delta."""
    step_timeout_s: float = 300.0
    """Seconds that the members have for each step of a sum after the first; one that is late is left out."""

    def __post_init__(self) -> None:
        one_of("privacy.mode", self.mode, MODES)
        between("privacy.noise-multiplier", self.noise_multiplier, 0.0, 1e4, "0 adds none, and more drowns everything")
        between("privacy.delta", self.delta, 0.0, 0.1, "it is a small probability", open_low=True, open_high=True)
        at_least("privacy.step-timeout-s", self.step_timeout_s, 1.0, "no client can reply sooner")
        between("privacy.clip-norm", self.clip_norm, 0.0, 1e6, "every update has a norm above 0", open_low=True)
