"""A run in another process, replayed: the lines in its folder become the events that a live view shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...common.analysis.scores import score
from ...common.messages.messages import Tally
from ...common.storage.jsonl import read_lines
from ...server.run import events


class Replay:
    """Events of a run folder, each emitted once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._journal = len(read_lines(folder / "journal.jsonl"))
        self._metrics = len(read_lines(folder / "metrics.jsonl"))
        self._cohort_size = 0

    def catch_up(self) -> None:
        """Emit what was written since the last call."""
        lines: list[Any] = read_lines(self._folder / "journal.jsonl")
        for line in lines[self._journal :]:
            if line["event"] == "PLANNED":
                self._cohort_size = len(line["cohort"])
                events.emit(events.RoundStarted(line["round"], line["attempt"], tuple(line["cohort"])))
            elif line["event"] == "VOID":
                events.emit(events.RoundVoid(line["round"], line["attempt"], str(line.get("reason", ""))))
        adapters = {line["round"]: line["adapter"] for line in lines if line["event"] == "COMMITTED"}
        self._journal = len(lines)
        metrics: list[Any] = read_lines(self._folder / "metrics.jsonl")
        for line in metrics[self._metrics :]:
            if line["kind"] == "round" and line["round"] not in adapters:
                break  # not committed yet: the journal's line is written after the metrics
            self._emit(line, adapters)
            self._metrics += 1

    def _emit(self, line: Any, adapters: dict[int, str]) -> None:
        if line["kind"] == "evaluation":
            events.emit(events.Evaluated(line["round"], line["decoding"], score(Tally(**line["total"]))))
            return
        clients: dict[str, dict[str, float]] = line["clients"]
        for name, metrics in clients.items():
            events.emit(events.UpdateTaken(line["round"], name, metrics, 0))
        moved, digest = line["update_norm"] > 0, adapters[line["round"]]
        size = line["bytes_up"], line["bytes_down"]
        counts = len(clients), max(self._cohort_size, len(clients))
        events.emit(events.RoundCommitted(line["round"], digest, *counts, line["seconds"], *size, moved))
