"""The state of one sum at the server, on its disk after every step: a server that is killed goes on from there.

Each step's request follows from the state alone, so a step that was under way is asked for again in the same words, and
every client gives the answer that it gave. Nothing is masked twice, and nobody is asked about another set of survivors.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...common.messages.messages import Words
from ...common.storage.atomic import write_atomic

STATE, TOTAL = "state.json", "total.bin"
Items = dict[str, str]


@dataclass(slots=True, kw_only=True)
class SumState:
    """What is known of a sum: empty where its step is still to come."""

    bundles: Items = field(default_factory=Items)
    boxes: dict[str, Items] = field(default_factory=dict[str, Items])
    """By sender, then by receiver. Its senders are the members whose masks are in every vector."""
    survivors: tuple[str, ...] = ()
    """Members whose vectors are in the total."""
    arrived: Items = field(default_factory=Items)
    """SHA-256 of each vector, as it travelled."""
    signatures: Items = field(default_factory=Items)
    shares: dict[str, Items] = field(default_factory=dict[str, Items])
    """By sender, then by the member whose secret they are of."""
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    """By step."""
    bytes_up: int = 0
    bytes_down: int = 0


class SumFolder:
    """One sum's folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self) -> SumState | None:
        """Return the state that was saved last; None if the sum has not begun."""
        path = self._folder / STATE
        if not path.exists():
            return None
        values: dict[str, Any] = json.loads(path.read_bytes())
        survivors = tuple(values.pop("survivors"))
        return SumState(survivors=survivors, **values)

    def save(self, state: SumState, total: Words | None = None) -> None:
        """Save a state; the total first, which a state with survivors needs."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if total is not None:
            write_atomic(self._folder / TOTAL, total.tobytes())
        write_atomic(self._folder / STATE, json.dumps(asdict(state)).encode())

    def total(self, dtype: np.dtype[np.unsignedinteger[Any]]) -> Words:
        """Return a copy of the saved total."""
        return np.frombuffer((self._folder / TOTAL).read_bytes(), dtype).copy()

    def remove(self) -> None:
        """Remove everything of a sum that is over."""
        shutil.rmtree(self._folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # another sum is under way
            self._folder.parent.rmdir()
