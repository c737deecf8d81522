"""The only way out of an organisation, and the record of what was sent.

Before a message leaves, one line is written and flushed to the disk: its number, every field with its name, type,
shape, bytes, SHA-256 and, for arrays, norm; what it is an answer to; where it goes, and how that is known; under which
policy. Values are not in the record, but for the short fields of a header, which are what an auditor wants to read. A
message whose record cannot be written does not leave.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from ...common.adapter.adapter import l2_norm
from ...common.adapter.compression import unpacked
from ...common.errors import ConfigError
from ...common.foreign import safe_logger
from ...common.messages import wire
from ...common.messages.messages import Failure
from ...common.storage.atomic import PRIVATE
from ...common.storage.jsonl import append_line
from ..organisation.settings import OrganisationFile
from .destination import destination

LOGGER = safe_logger("fedgrpo.client")
SHOWN_CHARACTERS = 4000
MASKING = "query.secagg"
"""The kind of message that an array leaves in under masks."""
TAIL_BYTES = 1 << 20
"""More than a line has."""
Entry = dict[str, object]


@dataclass(frozen=True, slots=True)
class EgressGate:
    """The egress gate and record of one organisation."""

    organisation: OrganisationFile
    dry_run: bool = False
    """Record messages, but send only the code `dry-run`."""

    @property
    def record(self) -> Path:
        """Return the file this gate writes to: a dry run has its own, since nothing leaves."""
        return self.organisation.folder / "rehearsal.jsonl" if self.dry_run else self.organisation.egress_record

    def release(self, content: RecordDict, answers: str) -> RecordDict:
        """Record a reply to a message of kind `answers` on disk, then return the content that may be sent.

        Raises:
            ConfigError: the record cannot be written; nothing may leave.
        """
        leaving = wire.record_of(Failure(error="dry-run")) if self.dry_run else content
        configured = self.organisation.settings.flower.superlink
        goes = destination(configured)
        if goes.source == "supernode" and goes.address != configured:
            LOGGER.warning("the SuperNode is connected to %s, flower.superlink is %s", goes.address, configured)
        entry: Entry = {
            "time": round(time.time(), 3),
            "organisation": self.organisation.name,
            "to": goes.address,
            "to_known_from": goes.source,
            "answers": answers,
            "sent": not self.dry_run,
            "bytes": wire.wire_bytes(content),
            "masked": answers == MASKING and wire.VECTOR in content,
            "policy_sha256": self.organisation.policy_sha256,
            "fields": list(fields_of(content)),
        }
        path = self.record
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if path.exists() and path.stat().st_mode & 0o077:
                path.chmod(PRIVATE)  # somebody else made it, or opened it: closed before the next line is in it
            with _one_at_a_time(path):
                append_line(path, {"number": _last_number(path) + 1, **entry}, PRIVATE)
        except OSError as error:
            raise ConfigError(
                f"The egress record {path} cannot be written ({error.strerror}), so nothing may leave."
            ) from error
        return leaving


@contextmanager
def _one_at_a_time(path: Path) -> Generator[None]:
    """Hold the record while its next number is found and its line is written."""
    with open(path, "ab", opener=lambda name, flags: os.open(name, flags, PRIVATE)) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _last_number(path: Path) -> int:
    """Return the number of the last whole line. Lines of earlier versions have none, and are counted."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
        *lines, _ = file.read().split(b"\n")
    try:
        return int(json.loads(lines[-1])["number"]) if lines else 0
    except (ValueError, KeyError, TypeError):
        return path.read_bytes().count(b"\n")


def fields_of(content: RecordDict) -> Iterator[Entry]:
    """Yield every field of a message: name, type, shape, bytes, SHA-256, and norm or value."""
    for record_name, record in content.items():
        for name, value in cast(ArrayRecord | ConfigRecord | MetricRecord, record).items():
            yield {"name": f"{record_name}.{name}", **_described(value)}


def _described(value: object) -> Entry:
    data = getattr(value, "data", None)
    if isinstance(data, bytes):
        codec, size = getattr(value, "dtype", ""), getattr(value, "shape", (0,))[0]
        about = {"type": codec, "shape": [size], "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        return about if codec in wire.WORDS.values() else {**about, "norm": l2_norm(unpacked(data, size, codec))}
    text = value if isinstance(value, str) else repr(value)
    encoded = text.encode()
    known: Entry = {"type": type(value).__name__, "bytes": len(encoded), "sha256": hashlib.sha256(encoded).hexdigest()}
    return {**known, "value": value} if len(encoded) <= SHOWN_CHARACTERS else known
