"""What a learner is told of one client: its problems and rewards, and where it keeps what outlives a round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..data.problems import Problem
from ..data.signal_record import SignalRecord
from ..privacy.spent import Spent
from ..rewards import Reward
from .kept_state import KeptState


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientData:
    """An organisation's name, problems, rewards and system prompt."""

    organisation: str
    shard: Sequence[Problem]
    held_out: Sequence[Problem]
    rewards: tuple[Reward, ...]
    system_prompt: str
    block: int = 1
    """Prompts that are always trained on together (`in_blocks`); private training has no blocks."""
    spent: Spent = field(default_factory=lambda: Spent(None))
    """The privacy budget, which private training is charged to."""
    kept: KeptState | None = None
    """Where what a round leaves for the next is kept; None keeps nothing."""
    record: SignalRecord = field(default_factory=lambda: SignalRecord(None))
    """What the prompts have shown in earlier rounds."""
    unit: str = "prompt"
    """What private training protects: a prompt, or the column that says whom it is about."""
