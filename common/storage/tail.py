"""Following a JSON Lines file that another process writes."""

from __future__ import annotations

import os
from pathlib import Path

from .jsonl import Entry, numbered_entries


class Tail:
    """The whole lines of a file that were added since the last look. A file that is missing has none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file, self._end, self._lines = 0, 0, 0
        self.began_again = False
        """Whether the last look found another file, or a shorter one: what was read before is not in it."""

    def new(self) -> list[Entry]:
        """Return the lines since the last look; all of them where the file began again.

        Raises:
            RunError: a line is damaged; names file and line.
        """
        try:
            with self._path.open("rb") as file:
                status = os.fstat(file.fileno())
                self.began_again = status.st_ino != self._file or status.st_size < self._end
                if self.began_again:
                    self._file, self._end, self._lines = status.st_ino, 0, 0
                file.seek(self._end)
                data = file.read()
        except FileNotFoundError:
            self.began_again, self._file, self._end, self._lines = self._file != 0, 0, 0, 0
            return []
        whole = data[: data.rfind(b"\n") + 1]
        found = numbered_entries(self._path, whole, first=self._lines + 1)
        self._end += len(whole)
        self._lines += whole.count(b"\n")
        return [entry for _, entry in found]
