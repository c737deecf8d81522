"""What one check found."""

from __future__ import annotations

from dataclasses import dataclass

OK, NOTE, BROKEN = "ok", "note", "broken"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's result, in words."""

    name: str
    level: str
    """OK; NOTE, which some uses need; BROKEN, without which what is installed here does not work."""
    said: str
    to_do: str = ""
    """What to do about it."""
