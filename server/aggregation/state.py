"""State of a federation between two rounds: what `aggregate` takes and returns, and what a checkpoint holds."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ...common.adapter.adapter import Adapter

Memory = dict[str, npt.NDArray[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Everything that a round passes on to the next one."""

    federation: str
    base_model_sha256: str
    """The base model that every client has."""
    round: int
    """Rounds committed."""
    adapter: Adapter
    positions: dict[str, int] = field(default_factory=dict[str, int])
    """Prompts of its shard each organisation has used in committed rounds."""
    strikes: dict[str, int] = field(default_factory=dict[str, int])
    """Refused replies of each organisation, which may make it sit out."""
    voids: int = 0
    """Void attempts at the round under way."""
    counted: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    """(round, attempt) of each organisation's last update that counted."""
    rewards: dict[str, tuple[float, ...]] = field(default_factory=dict[str, tuple[float, ...]])
    """Each organisation's mean rewards in its last rounds that counted, where it reports them."""
    median_norm: float = 0.0
    """Median norm of the deltas, none of them zero, of the last committed round; 0 before the first."""
    memory: Memory = field(default_factory=dict[str, npt.NDArray[np.float64]])
    """What the server's optimizer, and compression, carry from round to round."""
