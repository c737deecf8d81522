"""One attempt at a round: what was asked of whom, what came back, and the metrics once it is committed."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from ...common.adapter.adapter import l2_norm
from ...common.adapter.schema import AdapterSchema
from ...common.messages.messages import Update
from ..aggregation.aggregate import Diagnostics, ReceivedUpdate
from ..aggregation.products import Slices
from ..run.metrics import ClientMetrics, RoundMetrics


@dataclass(slots=True)
class Attempt:
    """What was asked of whom, and the results."""

    number: int
    attempt: int
    cohort: tuple[str, ...]
    nonce: str = field(default_factory=lambda: secrets.token_hex(8))
    started: float = field(default_factory=time.monotonic)
    bytes_down: dict[str, int] = field(default_factory=dict[str, int])
    """By organisation."""
    bytes_up: dict[str, int] = field(default_factory=dict[str, int])
    updates: dict[str, ReceivedUpdate] = field(default_factory=dict[str, ReceivedUpdate])
    """The valid updates, by organisation. Their deltas are in the store's inbox."""
    arrived: dict[str, tuple[str, int]] = field(default_factory=dict[str, tuple[str, int]])
    """Of each valid update, SHA-256 and length of its array as it travelled, for the round log."""
    refused: dict[str, str] = field(default_factory=dict[str, str])
    """Organisation -> code."""
    strikes: list[str] = field(default_factory=list[str])
    """Clients that sent an invalid update. Strikes count if the round commits: if most are invalid, the run is."""

    members: tuple[str, ...] = ()
    """Of a round whose updates are seen as a sum only: whose are in it."""
    agreement: dict[str, str] = field(default_factory=dict[str, str])
    """Of a masked sum: its members' signatures of who is in it."""
    agreed: dict[str, Any] = field(default_factory=dict[str, Any])
    """Of a masked sum: what they signed (`MaskedSum.agreed`)."""
    step_seconds: dict[str, float] = field(default_factory=dict[str, float])
    """Of a sum, by step."""

    @property
    def valid(self) -> int:
        """Return how many clients' updates count."""
        return len(self.members or self.updates)

    def metrics(self, diagnostics: Diagnostics) -> RoundMetrics:
        """Return the line of the committed round in the run's metrics."""
        return RoundMetrics(
            round=self.number,
            attempt=self.attempt,
            seconds=round(time.monotonic() - self.started, 3),
            bytes_up=sum(self.bytes_up.values()),
            bytes_down=sum(self.bytes_down.values()),
            update_norm=diagnostics.update_norm,
            aggregation_error=diagnostics.error,
            refused=self.refused,
            members=self.members,
            step_seconds=self.step_seconds,
            clients={
                name: ClientMetrics(
                    share=diagnostics.shares[name],
                    steps=update.steps,
                    examples=update.examples,
                    norm=update.norm,
                    clipped=diagnostics.clipped[name],
                    capped=name in diagnostics.capped,
                    bytes_up=self.bytes_up[name],
                    bytes_down=self.bytes_down[name],
                    reported=update.metrics,
                )
                for name, update in sorted(self.updates.items())
            },
        )


def received(update: Update, kept: Slices, schema: AdapterSchema, weight: float) -> ReceivedUpdate:
    """Return a valid update as it is aggregated; its delta has been put aside on the disk."""
    return ReceivedUpdate(
        delta=kept,
        schema=schema,
        norm=l2_norm(update.delta),
        weight=weight,
        steps=update.num_steps,
        examples=update.num_examples,
        metrics=update.metrics,
    )
