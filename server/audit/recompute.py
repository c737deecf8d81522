"""A run's rounds computed again, from the updates that it kept as they arrived (output.keep-updates)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from ...common.adapter import compression
from ...common.adapter.adapter import clip_norm, l2_norm
from ...common.adapter.schema import AdapterSchema, whole_vector
from ...common.audit.record import Contribution, Record
from ...common.errors import ConfigError, FedGRPOError
from ...common.settings.run_config import RunConfig, load_scenario
from ..aggregation.aggregate import ReceivedUpdate, aggregate
from ..run.layout import RunFolder
from ..run.store import Store


def were_kept(folder: Path) -> bool:
    """Return whether a run folder has its updates."""
    return RunFolder(folder).updates.is_dir()


def recomputed(folder: Path, records: list[Record]) -> Iterator[tuple[int, str]]:
    """Yield (round, what is wrong with it, or an empty text) of every committed round, each aggregated anew.

    Args:
        folder: the run's.
        records: of its log, whose chain and signatures were checked.
    """
    store, config = Store(folder), load_scenario(RunFolder(folder).settings)
    for record in records:
        if record.event == "committed":
            yield record.round, _complaint(store, config, record)


def _complaint(store: Store, config: RunConfig, record: Record) -> str:
    if config.sha256 != record.config:
        return "the run folder has other settings than the log"
    try:
        state = store.state_at(record.round - 1)
        if state.adapter.sha256 != record.adapter_before:
            return "the run folder has another adapter before this round than the log"
        schema = state.adapter.schema
        updates = {
            name: _update(store.files.kept(record.round, name), sent, schema, config, record.round)
            for name, sent in record.members.items()
        }
        done, _ = aggregate(state, updates, config)
    except (FedGRPOError, OSError) as error:
        return str(error)
    if done.adapter.sha256 != record.adapter_after:
        return f"the aggregate of its updates is {done.adapter.sha256[:16]}..., not the adapter in the log"
    return ""


def _update(path: Path, sent: Contribution, schema: AdapterSchema, config: RunConfig, number: int) -> ReceivedUpdate:
    """Return an update as the server's intake made it from the bytes that arrived."""
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sent.sha256:
        raise ConfigError(f"{path.name} is not the update in the log")
    own = schema if sent.rank == schema.rank else schema.at_rank(sent.rank)
    factors = config.method.trains_in(number)
    part = compression.unpacked(data, own.size_of(factors), config.compression.up)
    delta = whole_vector(own, clip_norm(part, config.intake.max_delta_norm), factors)
    return ReceivedUpdate(
        delta=delta,
        schema=own,
        norm=l2_norm(delta),
        weight=sent.weight,
        steps=sent.steps,
        examples=sent.examples,
        metrics={},
    )
