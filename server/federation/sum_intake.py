"""Validation of what clients send for a sum. As in `intake`, a failure costs only that reply."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

from flwr.app import RecordDict

from ...common.errors import ProtocolError
from ...common.foreign import quoted
from ...common.identity.keys import verify
from ...common.identity.manifest import Manifest
from ...common.messages import wire
from ...common.messages.messages import NO_WORDS, SecaggReply, SumPart, TaskId
from ...common.secagg.layout import Layout
from ...common.secagg.statements import Bundle, Context, differences, from_hex, unsigned
from .intake import accepted, check_length

MAX_ITEM, MAX_ITEMS_BYTES = 20_000, 200_000
SHARE_DIGITS = 66
"""Of one share, in hexadecimal."""


def read_part(content: RecordDict, task: TaskId, layout: Layout | None) -> SumPart:
    """Return a client's part of a sum: its vector, or without a layout its bundle.

    Raises:
        ProtocolError: it answers another task, or is not exactly what was asked for.
    """
    accepted(content, {wire.HEADER} if layout is None else {wire.HEADER, wire.VECTOR})
    check_length(wire.header_of(content), "bundle", MAX_ITEM)
    words = NO_WORDS if layout is None else wire.words_of(content, layout.size, layout.grid.dtype)
    part = wire.message_of(SumPart, content, words=words)
    for field in fields(TaskId):
        sent, expected = getattr(part.task, field.name), getattr(task, field.name)
        if sent != expected:
            raise ProtocolError("stale", f"{field.name} is {quoted(sent)}, this attempt's is {expected!r}")
    return part


def check_bundle(text: str, name: str, manifest: Manifest, expected: Context) -> Bundle:
    """Return a member's bundle, as every other member will check it; which code runs is not known here.

    Raises:
        ProtocolError: it is not signed by this member, or is of another sum.
    """
    signed, signature = unsigned(text)
    if not manifest.has(name) or not verify(manifest.key_of(name), signature, signed):
        raise ProtocolError("secagg.signature", f"the bundle is not signed with {name}'s key in the manifest")
    bundle = Bundle.read(signed)
    if bundle.member != name:
        raise ProtocolError("secagg.bundle", "the bundle is another member's")
    if different := set(differences(expected, bundle.context)) - {"app"}:
        raise ProtocolError("secagg.context", f"the client was asked for something else: {sorted(different)} differ")
    return bundle


def read_step(content: RecordDict, step: str, session: str, layout: Layout) -> SecaggReply:
    """Return a client's reply to a step of a sum.

    Raises:
        ProtocolError: it is not exactly what was asked for.
    """
    masked = step == "mask"
    accepted(content, {wire.HEADER, wire.VECTOR} if masked else {wire.HEADER})
    check_length(wire.header_of(content), "items", MAX_ITEMS_BYTES)
    words = wire.words_of(content, layout.size, layout.grid.dtype) if masked else NO_WORDS
    reply = wire.message_of(SecaggReply, content, words=words)
    if (reply.step, reply.session) != (step, session):
        raise ProtocolError("stale", "the reply does not answer this step of this sum")
    return reply


def check_boxes(items: dict[str, str], others: Iterable[str]) -> dict[str, str]:
    """Return the boxes of one sender, one for each other member.

    Raises:
        ProtocolError: one is missing, or is not hexadecimal.
    """
    if set(items) != set(others):
        raise ProtocolError("secagg.box", "there is not exactly one box for each other member")
    for box in items.values():
        from_hex(box)
    return items


def check_shares(items: dict[str, str], masked: Iterable[str]) -> dict[str, str]:
    """Return the shares that one member gave away, one for each masked member.

    Raises:
        ProtocolError: one is missing, or of another length.
    """
    if set(items) != set(masked) or any(len(share) != SHARE_DIGITS for share in items.values()):
        raise ProtocolError("secagg.shares", "there is not exactly one share for each masked member")
    for share in items.values():
        from_hex(share)
    return items


def check_signature(items: dict[str, str], name: str, manifest: Manifest, statement: bytes) -> str:
    """Return a member's signature of the set of survivors.

    Raises:
        ProtocolError: it is missing or wrong.
    """
    signature = items.get(name, "")
    if set(items) != {name} or not verify(manifest.key_of(name), from_hex(signature), statement):
        raise ProtocolError("secagg.signature", f"{name} did not sign this set of survivors")
    return signature
