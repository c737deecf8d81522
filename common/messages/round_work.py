"""The work of one client in a round, as the settings require it."""

from __future__ import annotations

from ..settings.run_config import RunConfig
from .metric_names import RoundWork


def round_work(groups: int, config: RunConfig) -> RoundWork:
    """Return what a client did in a round of so many groups, and the limits that the settings give it."""
    return RoundWork(
        groups=groups,
        completions=groups * config.grpo.num_generations,
        prompt_tokens=config.grpo.max_prompt_length,
        completion_tokens=config.grpo.max_completion_length,
    )
