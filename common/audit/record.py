"""One record of the round log, and the one line of text that it has (docs/audit.md).

    {"record":{...},"signature":"..."}

The record is JSON with sorted keys, without spaces, in ASCII; the signature is the server's, over a context and these
exact bytes. What reads back as the same record but is not the same line is refused, so a log has one form only, and no
byte of it can be changed without being seen. The hash of a line is the *head* of the log up to it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, cast

from ..bounds import NAME
from ..errors import ConfigError
from ..identity.encoding import encode
from ..identity.keys import Identity, verify

VERSION = 1
RECORD, HEAD = b"fedgrpo audit record v1\n", "fedgrpo audit head"
EVENTS = ("created", "committed", "void", "resumed", "finished")
FORMS = ("clear", "summed", "masked")
"""How an update came: readable, added up as in secure aggregation but without masks, masked."""
START, MIDDLE, END = b'{"record":', b',"signature":"', b'"}'
SIGNATURE_DIGITS = 128
HASH = re.compile(r"(?:[0-9a-f]{64})?")
MOST_LINE_BYTES = 4_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """What came from a member and went into the round's adapter."""

    sha256: str
    """Of the array's bytes as they travelled: the organisation's egress record has the same."""
    bytes: int
    form: str
    """One of FORMS."""
    rank: int = 0
    """Of the member's own adapter; 0 where it is not seen, as all that follows."""
    steps: int = 0
    examples: int = 0
    weight: float = 0.0
    """What the update counted, before cap and floor (aggregation.weights)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A member's signature of the head that it was shown last."""

    index: int
    signature: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One event of a run. Hashes are SHA-256 in hexadecimal."""

    index: int
    event: str
    """One of EVENTS."""
    previous: str
    """Hash of the line before; empty in the first."""
    federation: str
    """The manifest's."""
    run: str
    """Names the run; no two have the same name."""
    time: int
    """Seconds since 1970, by the server's clock."""
    round: int
    """The round that was attempted. created: 0; resumed, finished: the last that was committed."""
    attempt: int
    config: str
    """Hash of the run's settings."""
    manifest: str
    app: str
    """What code runs: the server's version of fedgrpo, and the SHA-256 of the submitted app bundle."""
    base_model: str
    schema: str
    """Hash of the adapter's schema."""
    adapter_before: str
    adapter_after: str
    """The same where the round was void."""
    mode: str
    """privacy.mode."""
    asked: tuple[str, ...] = ()
    """Members that were asked to train."""
    members: dict[str, Contribution] = field(default_factory=dict[str, Contribution])
    """Members whose updates are in the adapter."""
    agreement: dict[str, str] = field(default_factory=dict[str, str])
    """secagg: each member's signature on who is in the sum (docs/protocol.md)."""
    agreed: dict[str, Any] = field(default_factory=dict[str, Any])
    """secagg: what they signed, besides who is in the sum: its context, the roster's hash, whose masks were in it."""
    privacy: dict[str, str] = field(default_factory=dict[str, str])
    """Differential privacy that each member has spent, as it signed it: JSON."""
    seen: dict[str, Seen] = field(default_factory=dict[str, Seen])
    """Counter-signatures that came since the record before."""
    reason: str = ""
    """void: why."""
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    """created: the run's settings, but for those that the hash leaves out."""
    version: int = VERSION

    @property
    def rounds(self) -> int:
        """Return how many rounds are committed after this event."""
        return self.round - 1 if self.event == "void" else self.round


@dataclass(frozen=True, slots=True)
class Line:
    """A record with its signature, as a line of the log."""

    data: bytes
    """The line, without the line break at its end."""
    record: Record
    head: str
    """Hash of the line."""

    @classmethod
    def signed(cls, record: Record, identity: Identity) -> Line:
        """Return a record's line, signed by the server."""
        body = canonical(asdict(record))
        signature = identity.sign(RECORD + body).hex().encode()
        return cls.of(START + body + MIDDLE + signature + END, record)

    @classmethod
    def of(cls, data: bytes, record: Record) -> Line:
        """Return the line that these bytes are."""
        return cls(data, record, hashlib.sha256(data).hexdigest())

    @classmethod
    def read(cls, data: bytes) -> Line:
        """Read a line.

        Raises:
            ConfigError: it is not exactly what `signed` writes. The signature is not looked at.
        """
        body, signature = _parts(data)
        try:
            values = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise ConfigError("it is not JSON") from error
        record = _record(values)
        if canonical(asdict(record)) != body:
            raise ConfigError("it is not written as the server writes records: it was changed, or made by hand")
        if signature != signature.lower():
            raise ConfigError("its signature is not written in lower case: it was changed")
        return cls.of(data, record)

    def is_signed_by(self, public: bytes) -> bool:
        """Return whether the signature is of the record, by the owner of a key."""
        body, signature = _parts(self.data)
        try:
            return verify(public, bytes.fromhex(signature), RECORD + body)
        except ValueError:
            return False


def head_statement(manifest: str, run: str, index: int, head: str) -> bytes:
    """Return what a member signs when it has been shown a head.

    Args:
        manifest: fingerprint of the federation's manifest.
    """
    return encode(HEAD, manifest, run, index, head)


def canonical(value: Mapping[str, Any]) -> bytes:
    """Return the one JSON text of a value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def _parts(data: bytes) -> tuple[bytes, str]:
    """Return the record's bytes and the signature's digits."""
    place = len(data) - len(END) - SIGNATURE_DIGITS
    start, body, middle = data[: len(START)], data[len(START) : place - len(MIDDLE)], data[place - len(MIDDLE) : place]
    if (start, middle, data[-len(END) :]) != (START, MIDDLE, END) or len(data) > MOST_LINE_BYTES:
        raise ConfigError("it is not a record and a signature")
    return body, data[place : -len(END)].decode("latin-1")


def _record(values: object) -> Record:
    """Return a record from JSON, every field of it of the right type.

    Raises:
        ConfigError: names the field.
    """
    known = _object("the record", values, Record)
    known["asked"] = tuple(_texts("asked", known["asked"]))
    for key, kind in (("members", Contribution), ("seen", Seen)):
        entries = _named(key, known[key], dict)
        known[key] = {name: kind(**_object(key, entry, kind)) for name, entry in entries.items()}
    for key in ("agreement", "privacy"):
        known[key] = _named(key, known[key], str)
    if not isinstance(known["settings"], dict) or not isinstance(known["agreed"], dict):
        raise ConfigError("settings or agreed is not an object")
    record = Record(**known)
    if record.version != VERSION:
        raise ConfigError(f"it has version {record.version}, this fedgrpo reads version {VERSION}")
    hashes = (record.previous, record.config, record.manifest, record.schema, record.adapter_before)
    for value in (*hashes, record.adapter_after, *(each.sha256 for each in record.members.values())):
        if not HASH.fullmatch(value):
            raise ConfigError("a hash in it is not 64 hexadecimal digits")
    if record.event not in EVENTS or any(each.form not in FORMS for each in record.members.values()):
        raise ConfigError("it has an event, or a form of an update, that is not known")
    return record


SCALARS = {"int": int, "str": str, "float": float}


def _object(what: str, value: object, kind: type) -> dict[str, Any]:
    """Return a JSON object that has exactly the fields of a class; those that are scalars have their types."""
    wanted = {each.name: SCALARS.get(str(each.type)) for each in fields(kind)}
    if not isinstance(value, dict) or set(cast("dict[str, Any]", value)) != set(wanted):
        raise ConfigError(f"{what} does not have exactly the agreed fields")
    known = cast("dict[str, Any]", value)
    for name, type_ in wanted.items():
        if type_ is not None and type(known[name]) is not type_:
            raise ConfigError(f"{name} of {what} is not of the agreed type")
    return known


def _named(what: str, value: object, kind: type) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{what} is not an object")
    known = cast("dict[str, Any]", value)
    if not all(NAME.fullmatch(name) and type(entry) is kind for name, entry in known.items()):
        raise ConfigError(f"{what} does not name members")
    return known


def _texts(what: str, value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in cast("list[Any]", value)):
        raise ConfigError(f"{what} is not a list of names")
    return cast("list[str]", value)
