"""What has left an organisation, from its own egress record (docs/security.md)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, cast

from ...common.errors import RunError
from ...common.foreign import printable
from ...common.storage.jsonl import Entry
from ...common.storage.tail import Tail

SHOWN = 200
FIELDS = ("name", "type", "bytes", "norm", "value", "sha256")


class EgressView:
    """An egress record, read on as messages leave."""

    def __init__(self, record: Path, name: str) -> None:
        self.record, self.name = record, name
        self._tail = Tail(record)
        self._entries: list[Entry] = []
        self.version = 0
        """Counts the changes that were read."""

    def update(self) -> bool:
        """Read what was recorded since the last call, and return whether there was anything.

        Raises:
            RunError: a line is damaged.
        """
        new = self._tail.new()
        if self._tail.began_again:
            self._entries = []
        for entry in new:
            if not isinstance(entry.get("time"), (int, float)) or not isinstance(entry.get("fields"), list):
                raise RunError(f"{self.record} is damaged: a line has no time or no fields.")
        self._entries += new
        self.version += bool(new) or self._tail.began_again
        return bool(new)

    def overview(self) -> dict[str, Any]:
        """Return totals, and the last messages field by field."""
        entries = self._entries
        sent = [entry for entry in entries if entry.get("sent")]
        numbers = [n for entry in entries if isinstance(n := entry.get("number"), int)]
        missing = sorted(set(range(min(numbers, default=1), max(numbers, default=0))) - set(numbers))
        return {
            "name": printable(self.name),
            "record": printable(str(self.record)),
            "messages": len(entries),
            "sent": len(sent),
            "bytes": sum(_count(entry.get("bytes")) for entry in sent),
            "answers": dict(Counter(printable(str(entry.get("answers"))) for entry in sent)),
            "destinations": sorted({printable(str(entry.get("to"))) for entry in sent}),
            "policies": sorted({printable(str(entry.get("policy_sha256", "")))[:16] for entry in sent}),
            "missing": missing[:SHOWN],
            "last": [_shown(entry) for entry in entries[-SHOWN:]],
            "version": self.version,
        }


def _shown(entry: Entry) -> dict[str, Any]:
    fields = [field for field in cast("list[object]", entry["fields"]) if isinstance(field, dict)]
    return {
        "number": entry.get("number"),
        "time": entry["time"],
        "answers": printable(str(entry.get("answers", ""))),
        "to": printable(str(entry.get("to", ""))),
        "known": entry.get("to_known_from") == "supernode",
        "sent": bool(entry.get("sent")),
        "bytes": _count(entry.get("bytes")),
        "fields": [{name: _plain(field.get(name)) for name in FIELDS} for field in cast("list[Entry]", fields)],
    }


def _plain(value: object) -> object:
    return value if value is None or isinstance(value, (int, float)) else printable(str(value))


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0
