"""A run in another process, replayed: the lines in its folder become the events that a live view shows."""

from __future__ import annotations

from pathlib import Path

from ...common.analysis.scores import score
from ...server.run import events
from ...server.run.journal import Journal, Planned, Void
from ...server.run.layout import RunFolder
from ...server.run.metrics import EvaluationMetrics, RoundMetrics, read_metrics


class Replay:
    """Events of a run folder, each emitted once."""

    def __init__(self, folder: Path) -> None:
        self._files = RunFolder(folder)
        self._journal = len(Journal.read(self._files.journal).lines)
        self._metrics = len(read_metrics(self._files.metrics))
        self._asked = 0

    def catch_up(self) -> None:
        """Emit what was written since the last call."""
        journal = Journal.read(self._files.journal)
        for line in journal.lines[self._journal :]:
            if isinstance(line, Planned):
                self._asked = len(line.cohort)
                events.emit(events.RoundStarted(line.round, line.attempt, line.cohort))
            elif isinstance(line, Void):
                events.emit(events.RoundVoid(line.round, line.attempt, line.reason))
        self._journal = len(journal.lines)
        for line in read_metrics(self._files.metrics)[self._metrics :]:
            if isinstance(line, EvaluationMetrics):
                events.emit(events.Evaluated(line.round, line.decoding, score(line.total)))
            elif line.round in journal.adapters:
                self._committed(line, journal.adapters[line.round])
            else:
                break  # the journal's line, which makes it count, comes after
            self._metrics += 1

    def _committed(self, line: RoundMetrics, adapter: str) -> None:
        for name, client in line.clients.items():
            events.emit(events.UpdateTaken(line.round, name, client.reported, 0))
        valid = len(line.members or line.clients)
        events.emit(
            events.RoundCommitted(
                round=line.round,
                adapter_sha256=adapter,
                valid=valid,
                asked=max(self._asked, valid),
                seconds=line.seconds,
                bytes_up=line.bytes_up,
                bytes_down=line.bytes_down,
                moved=line.update_norm > 0,
            )
        )
