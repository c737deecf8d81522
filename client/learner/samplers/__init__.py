"""Where completions come from. This file is the seam; it imports no torch and no vLLM.

A sampler completes prompts with the policy as it stands in the model at that moment, or with the base model alone.
Training and evaluation ask the same one. There are three (`make.make_sampler`): the model itself; a vLLM engine in this
process; a vLLM server. vLLM is given the adapter alone, so that one engine serves all clients of a machine, no weight
is merged into the base, and none of the base is sent twice (docs/decisions/013).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How completions are drawn."""

    max_tokens: int
    temperature: float
    """0 decodes greedily."""
    seed: int | None = None
    """None goes on with the process's random numbers."""
    top_p: float = 1.0
    top_k: int = 0
    """0 switches it off."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """One completion."""

    tokens: list[int]
    """Up to the end of the text, which is the last of them unless the completion was cut off. At least one."""
    ended: bool
    """Whether it came to its end by itself, and was not cut off."""
    logprobs: list[float] | None = None
    """The sampler's own log-probability of each token, at its temperature; NaN where it could not tell. None where the
    sampler is the model that trains."""


class Sampler(Protocol):
    """Completes prompts."""

    def sample(
        self, prompts: Sequence[list[int]], sampling: Sampling, *, count: int = 1, base: bool = False
    ) -> list[list[Sampled]]:
        """`count` completions of each prompt, in the order of the prompts.

        Args:
            prompts: token ids, chat template included.
            base: with the base model alone, without the adapter.

        Raises:
            SamplerError: the engine failed, or cannot be reached.
        """
        ...

    def close(self) -> None:
        """Give back what the sampler holds: memory, a process, files."""
        ...
