"""When each node last sent a heartbeat, from the SuperLink's database in the operator's folder.

`flwr supernode list` calls a node online until two heartbeats (30 s apart) are missing, and does not say when the last
one came. The database does: `online_until` is the last heartbeat plus twice the node's interval.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE = 2
"""Flower's HEARTBEAT_PATIENCE."""
LATE = 1.2
"""A heartbeat later than this many intervals is missing; Flower sends them after 0.7 to 0.9 intervals."""
LOOK_S = 5.0


def last_heartbeats(database: Path) -> dict[int, tuple[float, float]]:
    """Return node id -> (seconds since its last heartbeat, the interval it announced).

    Empty where the database cannot be read: only the display depends on it.
    """
    query = "SELECT node_id, online_until, heartbeat_interval FROM node WHERE status = 'online'"
    if not database.exists():
        return {}
    try:
        with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=2)) as connection:
            rows = connection.execute(query).fetchall()
    except sqlite3.Error:  # another version of Flower, or locked
        return {}
    now = time.time()
    return {
        int(node) % (1 << 64): (max(0.0, now - (float(until) - PATIENCE * float(interval))), float(interval))
        for node, until, interval in rows
        if until is not None
    }


def state_in_words(status: str, heartbeat: tuple[float, float] | None) -> str:
    """Return a node's state with the age of its last heartbeat.

    >>> state_in_words("online", (12.0, 30.0)), state_in_words("online", (50.0, 30.0)), state_in_words("offline", None)
    ('online (last heartbeat 12 s ago)', 'silent for 50 s', 'offline')
    """
    if status != "online" or heartbeat is None:
        return status
    age, interval = heartbeat
    return f"silent for {age:.0f} s" if age > LATE * interval else f"online (last heartbeat {age:.0f} s ago)"


class NodeWatch:
    """Prints a line when a node goes silent, and when it comes back."""

    def __init__(self, database: Path, names: Callable[[], dict[int, str]], say: Callable[[str], None]) -> None:
        self._database, self._names, self._say = database, names, say
        self._present: set[int] | None = None
        self._gone: set[int] = set()
        self._next_look = 0.0

    def look(self) -> None:
        """Compare who is present with the last look; reads the database every few seconds at most."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + LOOK_S
        heartbeats = last_heartbeats(self._database)
        present = {node for node, (age, interval) in heartbeats.items() if age <= LATE * interval}
        names = self._names()
        for node in sorted((self._present or set()) - present):
            age = f"silent for {heartbeats[node][0]:.0f} s" if node in heartbeats else "offline"
            self._say(f"{names.get(node, node)} went away ({age})")
            self._gone.add(node)
        for node in sorted(present & self._gone):
            self._say(f"{names.get(node, node)} is back")
        self._gone -= present
        self._present = present
