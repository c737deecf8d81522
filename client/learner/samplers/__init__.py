"""Samplers: where completions come from. This file is the interface; it imports no torch and no vLLM.

A sampler completes prompts with the current policy, or with the base model alone. Training and evaluation use the same
one. There are three (`make.make_sampler`): the model itself; a vLLM engine in this process; a vLLM server. vLLM only
gets the adapter, so that one engine serves all clients of a machine, no weight is merged into the base model, and the
base model is never sent twice (docs/decisions/013).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Parameters of sampling."""

    max_tokens: int
    temperature: float
    """0 decodes greedily."""
    seed: int | None = None
    """None continues with the process's random numbers."""
    top_p: float = 1.0
    top_k: int = 0
    """0 turns it off."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """One completion."""

    tokens: list[int]
    """At least one token, up to and including the end token unless the completion was cut off."""
    ended: bool
    """Whether the model ended the completion, so that it was not cut off."""
    logprobs: list[float] | None = None
    """The sampler's log-probability of each token, at its temperature; NaN where it did not return one. None if the
    sampler is the model that trains."""


class Sampler(Protocol):
    """Something that completes prompts."""

    def sample(
        self, prompts: Sequence[list[int]], sampling: Sampling, *, count: int = 1, base: bool = False
    ) -> list[list[Sampled]]:
        """Return `count` completions of each prompt, in the order of the prompts.

        Args:
            prompts: token ids, chat template included.
            base: use the base model alone, without the adapter.

        Raises:
            SamplerError: the engine failed, or cannot be reached.
        """
        ...

    def close(self) -> None:
        """Release what the sampler holds: memory, a process, files."""
        ...
