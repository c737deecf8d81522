"""The [federation] section of an organisation's file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """This organisation's place in the federation: what secure aggregation and the audit need."""

    manifest: str = ""
    """The federation's manifest, which lists every organisation's identity key (`fedgrpo manifest`)."""
    identity: str = ""
    """This organisation's private Ed25519 key (`fedgrpo keys identity`). Its public half is in the manifest."""
