"""The record of one completion with its verdict."""

from __future__ import annotations

from dataclasses import dataclass

BASE, ADAPTER = "base", "adapter"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One completion of one problem, with its verdict."""

    decoding: str
    """`greedy` or `sampled`."""
    model: str
    """BASE or ADAPTER; a model alone is BASE."""
    problem: int
    sample: int
    completion: str
    strict_answer: str | None
    strict: bool
    lenient: bool
    style: str
    truncated: bool
    tokens: int
    rewards: dict[str, float | None]
