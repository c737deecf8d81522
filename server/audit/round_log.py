"""The server's round log, audit.jsonl: written with the journal, so that a crash leaves neither ahead of the other.

A record is signed and put aside before the round is committed, and appended after it. A run that is resumed finds what
was put aside, and appends it if the journal says that the round was committed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...common.audit.chain import Chain, link_complaints, read_chain, read_log
from ...common.audit.record import Contribution, Line, Record, Seen, head_statement
from ...common.errors import ConfigError, RunError
from ...common.identity.keys import Identity, verify
from ...common.identity.manifest import Manifest
from ...common.storage.atomic import write_atomic
from ...common.storage.jsonl import append_whole

UNSEEN = -1
MOST_CHARACTERS = 7_000_000
"""Of the lines in a message: a frame to the learner holds 8 million."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an attempt at a round ended."""

    event: str
    """`committed` or `void`."""
    round: int
    attempt: int
    adapter: str
    """Hash of the global adapter after it."""
    asked: tuple[str, ...]
    members: Mapping[str, Contribution] = field(default_factory=dict[str, Contribution])
    agreement: Mapping[str, str] = field(default_factory=dict[str, str])
    agreed: Mapping[str, Any] = field(default_factory=dict[str, Any])
    privacy: Mapping[str, str] = field(default_factory=dict[str, str])
    reason: str = ""


class RoundLog:
    """The log of one run, and which member has signed how much of it."""

    def __init__(self, path: Path, manifest: Manifest, identity: Identity, app: str = "") -> None:
        """Read the log, if the run has one already.

        Args:
            app: what code runs, for the records.

        Raises:
            ConfigError: the identity is not the manifest's server key.
            RunError: the log is damaged.
        """
        if identity.public != manifest.server_key:
            raise ConfigError(
                "output.identity is not the server key of output.manifest, so no organisation would accept the round "
                "log. Use the key whose public half is server-key in the manifest."
            )
        self.path, self.manifest, self._identity, self._app = path, manifest, identity, app
        self._lines: list[Line] = []
        self._seen: dict[str, int] = {}
        self._new: dict[str, Seen] = {}
        if path.exists():
            chain = self._read()
            self._lines, self._seen = chain.lines, dict(chain.seen)

    @property
    def begun(self) -> bool:
        """Return whether the log has a first record."""
        return bool(self._lines)

    @property
    def last(self) -> Record:
        """Return the last record."""
        return self._lines[-1].record

    @property
    def head(self) -> str:
        """Return the hash of the last line."""
        return self._lines[-1].head

    def create(self, record: Record) -> None:
        """Write the first record; `record` needs no index, time or manifest."""
        self._append(self._signed(record))

    def resume(self, rounds: int, adapter: str) -> None:
        """Write what a crash kept from being written, and that the run goes on.

        Args:
            rounds: committed according to the journal, whose adapter is whole.
            adapter: its hash.

        Raises:
            RunError: the log does not reach this far.
        """
        put_aside = self._put_aside
        if put_aside.exists():
            line = Line.read(put_aside.read_bytes())
            is_next = not list(link_complaints(line, self._lines[-1], self.manifest))
            if is_next and (line.record.rounds, line.record.adapter_after) == (rounds, adapter):
                self._append(line)
            put_aside.unlink()
        if not any((each.record.rounds, each.record.adapter_after) == (rounds, adapter) for each in self._lines):
            raise RunError(
                f"{self.path} does not reach round {rounds}, which the journal has committed. Restore the log from a "
                "backup: without it no organisation can check the rounds, and none will go on."
            )
        last = self.last
        after = replace(
            last, event="resumed", round=rounds, attempt=0, adapter_before=last.adapter_after, adapter_after=adapter
        )
        self._append(self._signed(_bare(after)))

    def prepare(self, outcome: Outcome) -> Line:
        """Sign the record of an attempt and put it aside; `append` makes it count."""
        last = self.last
        record = replace(
            _bare(last),
            event=outcome.event,
            round=outcome.round,
            attempt=outcome.attempt,
            adapter_before=last.adapter_after,
            adapter_after=outcome.adapter,
            asked=tuple(sorted(outcome.asked)),
            members=dict(sorted(outcome.members.items())),
            agreement=dict(sorted(outcome.agreement.items())),
            agreed=dict(outcome.agreed),
            privacy=dict(sorted(outcome.privacy.items())),
            reason=outcome.reason,
        )
        line = self._signed(record)
        write_atomic(self._put_aside, line.data)
        return line

    def append(self, line: Line) -> None:
        """Append a record that was prepared."""
        self._append(line)
        self._put_aside.unlink(missing_ok=True)

    def finish(self) -> None:
        """Write the last record, with the signatures of the head that came in since."""
        last = self.last
        if last.event != "finished":
            record = replace(
                _bare(last), event="finished", round=last.rounds, attempt=0, adapter_before=last.adapter_after
            )
            self._append(self._signed(record))

    def unseen(self, name: str, most: int = MOST_CHARACTERS) -> str:
        """Return the lines that a member has not signed, and at least the last one, each with its line break.

        Args:
            most: characters; what is beyond is sent once the member has signed these.
        """
        first = min(self._seen.get(name, UNSEEN) + 1, len(self._lines) - 1)
        found, size = list[str](), 0
        for line in self._lines[first:]:
            size += len(line.data) + 1
            if found and size > most:
                break
            found.append(line.data.decode("ascii") + "\n")
        return "".join(found)

    def countersigned(self, name: str, index: int, signature: str) -> str:
        """Take a member's signature of a head; return what is wrong with it, or an empty text."""
        if not self.manifest.has(name):
            return "it is not a member of the manifest"
        if not 0 <= index < len(self._lines):
            return f"there is no record {index}"
        line = self._lines[index]
        statement = head_statement(self.manifest.sha256, line.record.run, index, line.head)
        try:
            sound = verify(self.manifest.key_of(name), bytes.fromhex(signature), statement)
        except ValueError:
            sound = False
        if not sound:
            return f"its signature of record {index} is not valid"
        if index >= self._seen.get(name, UNSEEN):
            self._seen[name] = index
            self._new[name] = Seen(index=index, signature=signature.lower())
        return ""

    def forget(self, name: str) -> None:
        """Send a member the whole log next time: it has lost its copy."""
        self._seen.pop(name, None)

    @property
    def _put_aside(self) -> Path:
        return self.path.with_name(f"{self.path.stem}.next")

    def _read(self) -> Chain:
        data = read_log(self.path)
        chain = read_chain(data[: data.rfind(b"\n") + 1], self.manifest)  # a torn last line was never sent to anybody
        if chain.findings or not chain.lines:
            found = chain.findings[0] if chain.findings else "it has no whole line"
            raise RunError(f"The round log {self.path} is damaged: {found}. Restore it from a backup.")
        return chain

    def _signed(self, record: Record) -> Line:
        before = self._lines[-1] if self._lines else None
        record = replace(
            record,
            index=len(self._lines),
            previous=before.head if before else "",
            federation=self.manifest.federation,
            manifest=self.manifest.sha256,
            app=self._app,
            time=int(time.time()),
            seen=dict(sorted(self._new.items())),
        )
        return Line.signed(record, self._identity)

    def _append(self, line: Line) -> None:
        append_whole(self.path, line.data + b"\n")
        self._lines.append(line)
        self._new = {name: seen for name, seen in self._new.items() if name not in line.record.seen}


def _bare(record: Record) -> Record:
    """Return a record without what belongs to one event alone."""
    nothing: dict[str, Any] = {"asked": (), "members": {}, "agreement": {}, "agreed": {}, "privacy": {}}
    return replace(record, **nothing, reason="", settings={})
