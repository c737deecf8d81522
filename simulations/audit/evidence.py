"""What the checks of a run look at: its log, and what the organisation has kept of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...client.organisation.credentials import pinned_manifest
from ...client.organisation.settings import OrganisationFile
from ...common.audit.chain import Chain, read_chain, read_log
from ...common.audit.receipts import FILE, FOLDER, Receipt, read_receipts
from ...common.audit.record import Record
from ...common.errors import ConfigError, RunError
from ...common.identity.manifest import Manifest
from ...common.storage.jsonl import read_lines
from ...server.run.layout import RunFolder


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that the checks look at."""

    organisation: OrganisationFile
    manifest: Manifest
    chain: Chain
    folder: Path | None
    """The run folder, if the log lies in one."""
    copy: bytes
    """The organisation's own copy of the log; empty where there is none."""
    receipts: list[Receipt]
    """Of this run."""
    left: list[dict[str, Any]]
    """The egress record."""

    @property
    def committed(self) -> list[Record]:
        """Return the records of the rounds that count."""
        return [record for record in self.chain.records if record.event == "committed"]

    @property
    def run(self) -> str:
        """Return the run's name."""
        return self.chain.records[0].run if self.chain.lines else ""


def gather(log: Path, organisation: OrganisationFile) -> Evidence:
    """Read a log and what the organisation knows of its run.

    Args:
        log: the file, or the run folder.

    Raises:
        ConfigError: something cannot be read.
    """
    folder = log if log.is_dir() else None
    manifest = pinned_manifest(organisation)
    chain = read_chain(read_log(RunFolder(log).audit if folder else log), manifest)
    run = chain.records[0].run if chain.lines else ""
    own = organisation.folder / FOLDER
    copy = own / f"{run}.jsonl"
    try:
        left: list[dict[str, Any]] = read_lines(organisation.egress_record)
    except RunError as error:
        raise ConfigError(f"The egress record cannot be read: {error}") from error
    return Evidence(
        organisation=organisation,
        manifest=manifest,
        chain=chain,
        folder=folder,
        copy=read_log(copy) if run and copy.exists() else b"",
        receipts=[receipt for receipt in read_receipts(own / FILE) if receipt.run == run],
        left=left,
    )
