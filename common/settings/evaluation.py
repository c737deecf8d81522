"""The settings of the held-out evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from ..bounds import at_least, between
from .grpo import LOWEST_TEMPERATURE


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Held-out problems, answered by the clients before the first round, between rounds and at the end."""

    problems: int = 300
    """Held-out problems of all clients together."""
    every: int = 1
    """Rounds between evaluations; 0 evaluates only before the first and after the last round."""
    temperature: float = 1.0
    """Temperature of the headline accuracy; greedy accuracy is reported too, before and after."""
    batch_size: int = 75
    """Problems answered in one batch."""
    max_completion_length: int = 0
    """Tokens; 0 uses grpo.max-completion-length."""
    classes: str = ""
    """Columns of the data by whose values accuracy is split: `operator,steps`."""

    def __post_init__(self) -> None:
        at_least("evaluation.problems", self.problems, 1, "an accuracy needs at least one problem")
        at_least("evaluation.every", self.every, 0, "0 evaluates only before and after")
        between(
            "evaluation.temperature",
            self.temperature,
            LOWEST_TEMPERATURE,
            10.0,
            "it applies to the sampled accuracy; the greedy one is measured separately",
        )
        at_least("evaluation.batch-size", self.batch_size, 1, "a batch needs at least one problem")
        at_least("evaluation.max-completion-length", self.max_completion_length, 0, "0 uses grpo.max-completion-length")

    @property
    def class_columns(self) -> tuple[str, ...]:
        """Return the names in `classes`."""
        return tuple(name.strip() for name in self.classes.split(",") if name.strip())
