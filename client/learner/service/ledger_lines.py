"""The lines of the organisation's ledger: tasks that were begun and answered, and what was signed in sums."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....common.errors import ConfigError, RunError
from ....common.secagg.statements import Context
from ....common.storage.jsonl import read_lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One task, as it was begun, or as it was answered."""

    kind: str
    """`train` or `evaluate`; `agree` and `open` for what was signed in a sum, and what shares were given away for."""
    federation: str
    round: int
    attempt: int
    asked: str = ""
    """Of an evaluation: decoding and role, since an attempt may have one of each. Of a sum: what is added up."""
    settings: str
    """SHA-256 of the run's settings."""
    request: str
    """SHA-256 of the task, adapter included; of a sum, of the statement that names the survivors."""
    position: int = 0
    """Where in the shard the training began to read."""
    prompts: int = 0
    """Prompts of a training: planned when it begins, used when it is answered."""
    answered: bool = False

    @property
    def key(self) -> tuple[str, str, int, int, str]:
        """What is answered once."""
        return self.kind, self.federation, self.round, self.attempt, self.asked


def signing(kind: str, context: Context, statement: bytes) -> Line:
    """Return the line of a statement that is signed (`agree`) or opened (`open`)."""
    return Line(
        kind=kind,
        federation=context.federation,
        round=context.round,
        attempt=context.attempt,
        asked=added_up(context),
        settings=context.config,
        request=hashlib.sha256(statement).hexdigest(),
        answered=True,
    )


def added_up(context: Context) -> str:
    """Return what a sum is of: a round has one of its updates, and one of each evaluation."""
    return f"sum of {context.kind} {context.asked}".rstrip()


def in_words(context: Context) -> str:
    """Return which sum a context is of, for messages."""
    return f"The {added_up(context)} of {context.federation}'s round {context.round}, attempt {context.attempt}"


def read_ledger(path: Path) -> list[Line]:
    """Return the lines of a ledger.

    Raises:
        ConfigError: it cannot be read, or is damaged.
    """
    try:
        return [_line(entry) for entry in read_lines(path)]
    except (OSError, RunError, TypeError) as error:
        raise ConfigError(
            f"The ledger {path} cannot be read: {error} It says which tasks this organisation has answered. Restore it "
            "from a backup; if you move it away, tasks that were answered may be answered again."
        ) from error


def _line(entry: dict[str, Any]) -> Line:
    return Line(**entry)


def prompts_read(path: Path) -> int | None:
    """Return how far the furthest run has read the shard, repetitions included; None without a ledger.

    Raises:
        ConfigError: the file cannot be read, or is damaged.
    """
    if not path.is_file():
        return None
    done = [line for line in read_ledger(path) if line.kind == "train" and line.answered]
    return max((line.position + line.prompts for line in done), default=0)
