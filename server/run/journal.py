"""The journal of a run, journal.jsonl: one typed line per event, written and read here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from ...common.errors import RunError
from ...common.storage.jsonl import Entry, append_line
from .lines import as_entry, parsed, read_typed

FORMAT = 2
"""Of a run folder. 1 wrote metrics under names without an area, such as `bytes_up`; it is read too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalLine:
    """What all events have."""

    time: float = 0.0
    """Seconds since 1970; set when the line is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Created(JournalLine):
    """The run began."""

    federation: str
    base_model: str
    """Hash of the base model that the clients agreed on."""
    config: str
    """Hash of the settings."""
    schema: str
    """Hash of the adapter's schema."""
    adapter: str
    """Hash of the first adapter, as in every line."""
    format: int = 1
    """FORMAT; format 1 did not write it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed(JournalLine):
    """A process took the run up again after this round."""

    round: int
    format: int = 1
    """The folder's from here on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned(JournalLine):
    """A cohort was asked to train."""

    round: int
    attempt: int
    cohort: tuple[str, ...]
    adapter: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed(JournalLine):
    """A round counts: its adapter and its metrics are on the disk. Holds the state besides adapter and memory."""

    round: int
    attempt: int
    adapter: str
    positions: dict[str, int]
    strikes: dict[str, int]
    counted: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    rewards: dict[str, tuple[float, ...]] = field(default_factory=dict[str, tuple[float, ...]])
    median_norm: float = 0.0
    memory: str = ""
    """Hash of the memory's file; empty where there is none."""
    members: tuple[str, ...] = ()
    """Of a round whose updates were seen as a sum only: whose are in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Void(JournalLine):
    """An attempt was void; the adapter stays."""

    round: int
    attempt: int
    reason: str
    positions: dict[str, int] | None = None
    """Prompts used, where the attempt used some: one that the reward gate rejects has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned(JournalLine):
    """A reward-hacking warning, once each."""

    round: int
    tripwire: str
    organisation: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Withheld(JournalLine):
    """No client sent its counts of held-out answers, and a policy was the reason; training goes on without accuracy."""

    round: int
    decoding: str
    codes: dict[str, str]
    """Why, by organisation."""

    def __str__(self) -> str:
        when = f"after round {self.round}" if self.round else "before round 1"
        reasons = ", ".join(f"{name} {code}" for name, code in sorted(self.codes.items()))
        return f"{when}: no {self.decoding} accuracy, since no organisation's counts may leave ({reasons})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished(JournalLine):
    """All rounds were played and evaluated."""

    round: int
    adapter: str


EVENTS: Mapping[str, type[JournalLine]] = MappingProxyType(
    {
        "CREATED": Created,
        "RESUMED": Resumed,
        "PLANNED": Planned,
        "COMMITTED": Committed,
        "VOID": Void,
        "WARNED": Warned,
        "WITHHELD": Withheld,
        "FINISHED": Finished,
    }
)
NAMES = {kind: name for name, kind in EVENTS.items()}
Kind = TypeVar("Kind", bound=JournalLine)


@dataclass(frozen=True, slots=True)
class Journal:
    """A journal as it was read."""

    lines: tuple[JournalLine, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Journal:
        """Read a journal; one that does not exist has no lines. A torn last line is as if it had not been written.

        Raises:
            RunError: a line is damaged, or a newer fedgrpo wrote it.
        """
        lines = read_typed(path, parsed_event)
        formats = [line.format for line in lines if isinstance(line, (Created, Resumed))]
        if max(formats, default=FORMAT) > FORMAT:
            raise RunError(
                f"{path} has format {max(formats)}, this fedgrpo reads up to {FORMAT}. Read it with a newer version."
            )
        return cls(tuple(lines))

    def of(self, kind: type[Kind]) -> list[Kind]:
        """Return the lines of one event."""
        return [line for line in self.lines if isinstance(line, kind)]

    @property
    def created(self) -> Created | None:
        """Return the first line, if it is the start of a run."""
        first = self.lines[0] if self.lines else None
        return first if isinstance(first, Created) else None

    @property
    def adapters(self) -> dict[int, str]:
        """Return the hash of each committed round's adapter."""
        return {line.round: line.adapter for line in self.of(Committed)}

    @property
    def round(self) -> int:
        """Rounds committed."""
        return max(self.adapters, default=0)

    @property
    def finished(self) -> bool:
        """Return whether the run has finished."""
        return bool(self.of(Finished))


def append(path: Path, line: JournalLine, time: float) -> None:
    """Append a line to a journal and flush it to the disk."""
    fields = as_entry(replace(line, time=round(time, 3)))
    append_line(path, {"time": fields.pop("time"), "event": NAMES[type(line)], **fields})


def parsed_event(entry: Entry) -> JournalLine:
    """Return the typed line of a JSON object.

    Raises:
        ValueError: a field is missing or has another type; names it.
    """
    event = entry.get("event")
    if not isinstance(event, str) or event not in EVENTS:
        raise ValueError(f"event is {event!r:.80}, not one of {', '.join(EVENTS)}")
    return parsed(EVENTS[event], entry)
