"""The record of what an organisation's prompts have shown: on its disk, and true after a crash or a void round."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ....common.errors import ConfigError, RunError
from ....common.storage.atomic import PRIVATE
from ....common.storage.jsonl import append_line, read_lines

FOLDER = "signal"
"""Its folder among an organisation's own files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """The units that one round was trained on, and the signal of each."""

    round: int
    attempt: int
    position: int
    """Prompts used before it, in rounds that counted."""
    end: int
    """Prompts used with it."""
    units: dict[str, list[float]]
    """Unit -> its signal, each time it was read."""


class SignalRecord:
    """What an organisation's prompts have shown, on its disk: a line for each round trained, whether it counted or not.

    Which rounds counted, the task says: its position is the number of prompts used in them. From there the lines are
    followed back, each to the one that ended where it began. So a round that is void, lost or trained again after a
    crash leaves a line that nothing leads to, and the record needs no second message to be right.
    """

    def __init__(self, folder: Path | None) -> None:
        """Keep the record in a folder; None keeps it in memory, for a rehearsal."""
        self._folder = folder
        self._rehearsed: list[Played] = []

    def add(self, federation: str, played: Played) -> None:
        """Write a round down; it is on the disk before the call returns."""
        if self._folder is None:
            self._rehearsed.append(played)
            return
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        append_line(self._file(self._folder, federation), asdict(played), PRIVATE)

    def counted(self, federation: str, position: int, before: tuple[int, int]) -> tuple[list[Played], int]:
        """Return (the rounds that led to a position, last first; the prompts used in earlier ones, of which the record
        is lost).

        Args:
            before: (round, attempt) that asks: later ones are of a run that was taken back.

        Raises:
            ConfigError: the record is damaged.
        """
        chain: list[Played] = []
        for played in reversed(self._lines(federation)):
            if position and played.end == position and (played.round, played.attempt) < before:
                chain.append(played)
                position = played.position
        return chain, position

    def _lines(self, federation: str) -> list[Played]:
        if self._folder is None:
            return self._rehearsed
        path = self._file(self._folder, federation)
        try:  # read each time: on Ray several processes serve one client in turn
            return [_played(entry) for entry in read_lines(path)]
        except (OSError, RunError, TypeError) as error:
            raise ConfigError(
                f"The record of what prompts have shown, {path}, cannot be read: {error} Restore it from a backup, or "
                "move it away: all prompts then count as new."
            ) from error

    @staticmethod
    def _file(folder: Path, federation: str) -> Path:
        return folder / f"{federation}.jsonl"


def _played(entry: dict[str, Any]) -> Played:
    return Played(**entry)
