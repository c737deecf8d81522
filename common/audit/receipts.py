"""An organisation's receipts: what it gave for each round, and what it had seen of the round log by then.

They are written by the learner before anything leaves. The egress record, which the relay writes, has the same hash.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from ..errors import ConfigError, RunError
from ..storage.atomic import PRIVATE
from ..storage.jsonl import append_line, read_lines
from .record import canonical

FOLDER, FILE = "audit", "receipts.jsonl"
"""In the learner's folder. The copy of a run's log is beside the receipts, as RUN.jsonl."""
PRIVACY = "privacy/"
"""Begins the names of metrics that say what was spent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What was given for one attempt at a round."""

    time: float
    organisation: str
    run: str
    round: int
    attempt: int
    form: str
    """`clear`, `summed` or `masked` (`record.FORMS`)."""
    sha256: str
    """Of the array's bytes as they leave."""
    bytes: int
    examples: int
    """Prompts trained on."""
    adapter: str
    """Hash of the adapter that was trained from."""
    index: int
    """Of the last record of the round log that this organisation had signed."""
    head: str
    """The hash that it signed."""
    privacy: str = ""
    """What this organisation told the server of the differential privacy that it has spent: JSON, as in the record."""
    spent: str = ""
    """What the round was charged, and what all rounds cost by then: JSON that stays here. Empty without noise."""

    @property
    def attempt_at(self) -> tuple[str, int, int]:
        """Return what the receipt is for: run, round and attempt."""
        return self.run, self.round, self.attempt


def privacy_statement(metrics: Mapping[str, float]) -> str:
    """Return what a member says of the differential privacy that it has spent, of the metrics that it reports.

    >>> privacy_statement({"reward/mean": 0.5, "privacy/epsilon": 2.0}), privacy_statement({})
    ('{"epsilon":2.0}', '')
    """
    spent = {name.removeprefix(PRIVACY): value for name, value in metrics.items() if name.startswith(PRIVACY)}
    return canonical(spent).decode() if spent else ""


def write_receipt(folder: Path, receipt: Receipt) -> None:
    """Write a receipt; it is on the disk when this returns.

    Args:
        folder: the learner's.
    """
    path = folder / FOLDER / FILE
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    append_line(path, asdict(receipt), PRIVATE)


def read_receipts(path: Path) -> list[Receipt]:
    """Return all receipts of a file; none where there is no file.

    Raises:
        ConfigError: the file cannot be read, or is damaged.
    """
    try:
        return list(_receipts(read_lines(path)))
    except (OSError, RunError, TypeError) as error:
        raise ConfigError(f"The receipts {path} cannot be read: {error}") from error


def _receipts(entries: Iterable[dict[str, object]]) -> Iterable[Receipt]:
    for entry in entries:
        yield Receipt(**cast("dict[str, Any]", entry))
