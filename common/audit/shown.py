"""The part of a log that travels with a message, and the signature that comes back.

The server adds a record `audit` to a client's task: the lines of the log that the client has not signed yet, the last
one always among them. The client adds one to its reply: the index of the last line, and its signature of the head. What
a message says else is not touched, and a client without a manifest leaves both out.
"""

from __future__ import annotations

from dataclasses import dataclass

from flwr.app import ConfigRecord, RecordDict

from ..errors import ProtocolError

AUDIT = "audit"
MOST_CHARACTERS = 8_000_000
"""More than a server sends."""


@dataclass(frozen=True, slots=True)
class Signed:
    """A client's signature of a head."""

    index: int
    signature: str


def with_lines(content: RecordDict, lines: str) -> RecordDict:
    """Return a message's content with lines of the log beside it; the content itself is not changed."""
    return RecordDict({**content, AUDIT: ConfigRecord({"lines": lines})})


def take_lines(content: RecordDict) -> str:
    """Take the lines out of a message; empty where it has none.

    Raises:
        ProtocolError: there is something else under that name.
    """
    record = content.pop(AUDIT, None)
    if record is None:
        return ""
    lines = record.get("lines") if isinstance(record, ConfigRecord) and set(record) == {"lines"} else None
    if not isinstance(lines, str) or not 0 < len(lines) <= MOST_CHARACTERS:
        raise ProtocolError("audit", "the message has a record `audit` that is not a part of a round log")
    return lines


def with_signature(content: RecordDict, signed: Signed) -> RecordDict:
    """Add a client's signature to its reply, and return it."""
    content[AUDIT] = ConfigRecord({"index": signed.index, "signature": signed.signature})
    return content


def take_signature(content: RecordDict) -> Signed | None:
    """Take a client's signature out of its reply; None where it has none.

    Raises:
        ProtocolError: there is something else under that name.
    """
    record = content.pop(AUDIT, None)
    if record is None:
        return None
    if isinstance(record, ConfigRecord) and set(record) == {"index", "signature"}:
        index, signature = record["index"], record["signature"]
        if type(index) is int and isinstance(signature, str) and len(signature) == 128:
            return Signed(index, signature)
    raise ProtocolError("audit", "the reply has a record `audit` that is not a signature of the round log")
