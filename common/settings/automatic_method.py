"""Which aggregation method `aggregation.method = "auto"` stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .run_config import RunConfig

AUTO = "auto"


def automatic_method(config: RunConfig) -> str:
    """Return `naive`, or `ffa` where noise is added to what clients train.

    At its best learning rate `naive` ends above or beside every other method, and it learns fastest at half of it
    (docs/results.md, `methods`). It adds up, so that it is the same method in the clear and in a masked sum. Noise on A
    and B is multiplied in their product; with A frozen it stays as it was added (FFA-LoRA, Sun et al. 2024,
    arXiv:2403.12313, section 3).
    """
    noisy = config.dp.on or config.privacy.noise_multiplier > 0
    return "ffa" if noisy else "naive"
