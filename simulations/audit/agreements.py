"""What members signed of a masked sum, checked from the round log alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...common.audit.record import Record
from ...common.identity.keys import verify
from ...common.identity.manifest import Manifest
from ...common.secagg.statements import Context, agreement


def agreement_complaints(record: Record, manifest: Manifest) -> Iterator[str]:
    """Yield what is wrong with the members' signatures of who is in a round's sum (docs/protocol.md)."""
    try:
        context = _context(record.agreed["context"])
        roster, masked = bytes.fromhex(record.agreed["roster"]), [str(name) for name in record.agreed["masked"]]
    except (KeyError, TypeError, ValueError):
        yield "what was signed is not in the log"
        return
    said = (context.kind, context.federation, context.round, context.attempt, context.adapter, context.manifest)
    if said != ("train", record.run, record.round, record.attempt, record.adapter_before, record.manifest):
        yield "what was signed is another round, adapter or manifest"
    statement = agreement(context, roster, masked, record.members)
    signed = {name for name, signature in record.agreement.items() if _is_sound(manifest, name, signature, statement)}
    for name in sorted(record.agreement.keys() - signed):
        yield f"{name} has not signed this set of members"
    needed = manifest.threshold
    if len(signed) < needed:
        yield f"{len(signed)} members signed who is in the sum, {needed} are needed"


def _context(values: Any) -> Context:
    return Context(**{**values, "numbers": tuple(values["numbers"])})


def _is_sound(manifest: Manifest, name: str, signature: str, statement: bytes) -> bool:
    try:
        return manifest.has(name) and verify(manifest.key_of(name), bytes.fromhex(signature), statement)
    except ValueError:
        return False
