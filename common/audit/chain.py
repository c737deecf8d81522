"""Checks of a whole log: that it is one chain, signed by the server, and which members have seen which part of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ConfigError
from ..identity.keys import verify
from ..identity.manifest import Manifest
from .record import Line, Record, head_statement


@dataclass(frozen=True, slots=True)
class Finding:
    """Something in a log that may not be."""

    line: int
    """From 1; 0 where it is the whole log."""
    text: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}" if self.line else self.text


@dataclass(slots=True)
class Chain:
    """A log as it was read, with what is wrong with it."""

    lines: list[Line] = field(default_factory=list[Line])
    findings: list[Finding] = field(default_factory=list[Finding])
    seen: dict[str, int] = field(default_factory=dict[str, int])
    """By member, the index of the last record whose head it has signed."""

    @property
    def records(self) -> list[Record]:
        """Return the records."""
        return [line.record for line in self.lines]


def split_log(data: bytes) -> list[bytes]:
    """Return the lines of a log without their line breaks.

    Raises:
        ConfigError: the log is empty, or its last line has no end.
    """
    if not data.endswith(b"\n"):
        raise ConfigError("the log is empty, or its last line is torn")
    return data[:-1].split(b"\n")


def read_chain(data: bytes, manifest: Manifest) -> Chain:
    """Read a log and check all of it that needs no more than the manifest.

    Every line is looked at, also after one that is wrong, but for what the wrong one decides.
    """
    chain = Chain()
    try:
        texts = split_log(data)
    except ConfigError as error:
        chain.findings.append(Finding(0, str(error)))
        texts = data.split(b"\n")[:-1]
    for number, text in enumerate(texts, start=1):
        try:
            line = Line.read(text)
        except ConfigError as error:
            chain.findings.append(Finding(number, str(error)))
            break  # nothing after it can be the continuation of what was not read
        before = chain.lines[-1] if chain.lines else None
        complaints = [*link_complaints(line, before, manifest), *_countersignature_complaints(line, chain, manifest)]
        chain.findings += [Finding(number, complaint) for complaint in complaints]
        chain.lines.append(line)
    return chain


def read_log(path: Path) -> bytes:
    """Return the bytes of a log.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"Cannot read the round log {path}: {error.strerror}.") from error


def link_complaints(line: Line, before: Line | None, manifest: Manifest) -> Iterator[str]:
    """Yield what keeps a line from being the continuation of the one before it (None: from being the first)."""
    record = line.record
    if not line.is_signed_by(manifest.server_key):
        yield "it does not have the server's signature"
    if (record.manifest, record.federation) != (manifest.sha256, manifest.federation):
        yield f"it belongs to another manifest ({record.manifest[:16]}...)"
    if before is None:
        if (record.index, record.previous, record.event) != (0, "", "created"):
            yield "it is not the beginning of a log"
        return
    last = before.record
    if record.index != last.index + 1 or record.previous != before.head or record.event == "created":
        yield "it does not continue the line before it"
    for name in ("run", "config", "mode", "base_model", "schema"):
        if getattr(record, name) != getattr(last, name):
            yield f"its {name.replace('_', ' ')} is another than that of the run's beginning"
    yield from _state_complaints(record, last)
    strangers = sorted({*record.asked, *record.members, *record.seen} - {member.name for member in manifest.members})
    if strangers:
        yield f"{strangers[0]} is not a member of the federation"


def _state_complaints(record: Record, last: Record) -> Iterator[str]:
    """Yield what is wrong in how rounds and adapters follow each other."""
    if record.adapter_before != last.adapter_after:
        yield "it begins with another adapter than the line before it ended with"
    expected = {"committed": last.rounds + 1, "void": last.rounds + 1, "finished": last.rounds}.get(record.event)
    if expected is not None and record.round != expected:
        yield f"it is of round {record.round}, where round {expected} is due"
    if record.event in ("void", "finished") and record.adapter_after != record.adapter_before:
        yield f"the adapter changes in a round that is {record.event}"
    if record.event == "resumed" and record.round > last.rounds:
        yield "it goes on from a round that was not committed"
    if record.event != "committed" and record.members:
        yield f"updates are counted in a record that is {record.event}"
    if not set(record.members) <= set(record.asked):
        yield "an update is counted of a member that was not asked"


def _countersignature_complaints(line: Line, chain: Chain, manifest: Manifest) -> Iterator[str]:
    for name, seen in sorted(line.record.seen.items()):
        if not 0 <= seen.index < len(chain.lines):
            yield f"{name} is said to have seen a record that was not there yet"
        elif manifest.has(name) and not _is_sound(chain.lines[seen.index], seen.signature, manifest, name):
            yield f"{name} has not signed what it is said to have seen (record {seen.index})"
        elif seen.index < chain.seen.get(name, -1):
            yield f"{name} had seen more before (record {chain.seen[name]}, now {seen.index})"
        else:
            chain.seen[name] = seen.index


def _is_sound(line: Line, signature: str, manifest: Manifest, name: str) -> bool:
    try:
        signed = bytes.fromhex(signature)
    except ValueError:
        return False
    record = line.record
    statement = head_statement(manifest.sha256, record.run, record.index, line.head)
    return signed.hex() == signature and verify(manifest.key_of(name), signed, statement)


def covered(chain: Chain, members: Iterable[str]) -> int:
    """Return how many records, from the first on, all of some members have signed; 0 where one has signed nothing."""
    return min((chain.seen.get(name, -1) + 1 for name in members), default=0)
