"""What members sign: the context of a sum, their keys in it, and the set of survivors.

Signed texts are JSON with sorted keys behind a line that names their kind, so that none can be taken for another.
Receivers check the signature over the exact bytes, and then that these are the one text of exactly the expected fields.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, cast

from ..errors import ProtocolError

VERSION = 1
BUNDLE, AGREEMENT = b"fedgrpo secagg v1 bundle\n", b"fedgrpo secagg v1 agreement\n"
SIGNATURE_BYTES = 64
MAX_BUNDLE_BYTES = 8192
HEX = "0123456789abcdef"


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Everything that all members of a sum must agree on: a peer whose context differs gets nothing from the others.

    A server that shows two members different adapters, settings or rounds is found out here.
    """

    kind: str
    """`train` or `evaluate`."""
    federation: str
    """The run's name, which no two runs share."""
    round: int
    attempt: int
    asked: str = ""
    """Of an evaluation: its decoding."""
    adapter: str
    """SHA-256 of the global adapter, schema included."""
    config: str
    """SHA-256 of the run's settings."""
    app: str
    """What code runs: the version of fedgrpo, and the hash of the Flower bundle."""
    manifest: str
    """Fingerprint of the federation's manifest."""
    numbers: tuple[str, ...]
    """Names of the numbers beside the update, in the order of the vector."""
    version: int = VERSION

    @property
    def sha256(self) -> str:
        """Return the hash that names this sum."""
        return hashlib.sha256(canonical(asdict(self))).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A member's keys for one sum, and what it says the sum is."""

    context: Context
    member: str
    mask_key: str
    """X25519 public key for masks, hexadecimal."""
    box_key: str
    """X25519 public key for boxes."""
    self_mask: str
    """SHA-256 of the seed of its own mask: shares that give another seed are found out."""
    commitment: str
    """SHA-256 of a random salt and its coded vector: it cannot choose another one after it has seen the others."""

    def text(self) -> bytes:
        """Return what is signed."""
        return BUNDLE + canonical(asdict(self))

    @classmethod
    def read(cls, text: bytes) -> Bundle:
        """Read a bundle whose signature has been checked.

        Raises:
            ProtocolError: it is not exactly the fields of a bundle.
        """
        values = _json_of(text, BUNDLE)
        context = values.get("context")
        if set(values) != {f.name for f in fields(cls)} or not isinstance(context, dict):
            raise ProtocolError("secagg.bundle", "a bundle does not have exactly the agreed fields")
        keys = {name: values[name] for name in ("mask_key", "box_key", "self_mask", "commitment")}
        if not all(is_hash(value) for value in keys.values()) or not isinstance(values["member"], str):
            raise ProtocolError("secagg.bundle", "a bundle's keys are not 32 bytes each, in hexadecimal")
        return cls(context=_context_of(cast(dict[str, Any], context)), member=values["member"], **keys)


def signed(text: bytes, signature: bytes) -> str:
    """Return a text with its signature, as it travels: hexadecimal."""
    return (signature + text).hex()


def unsigned(travelling: str) -> tuple[bytes, bytes]:
    """Return (text, signature) of what `signed` made.

    Raises:
        ProtocolError: it cannot be that.
    """
    data = from_hex(travelling) if len(travelling) <= 2 * (MAX_BUNDLE_BYTES + SIGNATURE_BYTES) else b""
    if len(data) <= SIGNATURE_BYTES:
        raise ProtocolError("secagg.bundle", "a bundle is not a signature and a text, in hexadecimal")
    return data[SIGNATURE_BYTES:], data[:SIGNATURE_BYTES]


def roster_hash(bundles: Mapping[str, str]) -> bytes:
    """Return the SHA-256 of all members' signed bundles: salt of every key that they agree on."""
    return hashlib.sha256(canonical(dict(bundles))).digest()


def agreement(context: Context, roster: bytes, masked: Iterable[str], survivors: Iterable[str]) -> bytes:
    """Return what a member signs once it knows whose masked vectors arrived.

    Args:
        roster: `roster_hash`.
        masked: members that got boxes, whose masks are in the survivors' vectors.
        survivors: those whose vectors are in the sum.
    """
    return AGREEMENT + canonical(
        {
            "context": context.sha256,
            "roster": roster.hex(),
            "masked": sorted(masked),
            "survivors": sorted(survivors),
        }
    )


def differences(mine: Context, other: Context) -> Sequence[str]:
    """Return the names of the parts in which two contexts differ."""
    return [f.name for f in fields(Context) if getattr(mine, f.name) != getattr(other, f.name)]


def canonical(value: Any) -> bytes:
    """Return the one JSON text of a value: sorted keys, no blanks, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _json_of(text: bytes, kind: bytes) -> dict[str, Any]:
    try:
        values = json.loads(text.removeprefix(kind)) if text.startswith(kind) else None
        if not isinstance(values, dict) or kind + canonical(values) != text:  # repeated keys, blanks, 1e0 for 1.0
            values = None
    except (ValueError, RecursionError):
        values = None
    if values is None:
        raise ProtocolError("secagg.bundle", "a signed text is not of the agreed kind and form")
    return cast(dict[str, Any], values)


def _context_of(values: dict[str, Any]) -> Context:
    expected = {f.name: f.type for f in fields(Context)}
    numbers = values.pop("numbers", None)
    names = cast(list[object], numbers) if isinstance(numbers, list) else [None]
    sound = {*values, "numbers"} == set(expected) and all(isinstance(name, str) for name in names)
    if not sound or not all(type(value).__name__ == expected[key] for key, value in values.items()):
        raise ProtocolError("secagg.bundle", "a context does not have exactly the agreed fields")
    return Context(**values, numbers=tuple(cast(list[str], names)))


def from_hex(text: str) -> bytes:
    """Return the bytes that a text of hexadecimal digits stands for: in lower case, without blanks.

    Raises:
        ProtocolError: it is not the one text of some bytes.
    """
    if len(text) % 2 or not set(text) <= set(HEX):
        raise ProtocolError("secagg.encoding", "an item is not hexadecimal, in lower case")
    return bytes.fromhex(text)


def is_hash(value: object) -> bool:
    """Return whether a value is 32 bytes in hexadecimal."""
    return isinstance(value, str) and len(value) == 64 and set(value) <= set(HEX)
