"""How a run stands, from its folder alone."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from ...common.analysis.scores import score
from ...common.settings.run_config import load_scenario
from .journal import Committed, Journal
from .layout import RunFolder
from .lock import is_busy
from .metrics import EvaluationMetrics, RoundMetrics, read_metrics


@dataclass(frozen=True)
class RunStatus:
    """How a run stands, from its folder alone."""

    name: str
    round: int
    rounds: int
    state: str
    """`finished`, `running`, `stopped` (it said why), or `interrupted`."""
    reason: str
    last_event_s: float
    """Seconds since the journal's last line."""
    clients: dict[str, float]
    """Organisation -> seconds since its last update was taken in a committed round."""

    @classmethod
    def read(cls, folder: Path) -> RunStatus:
        """Read a run folder; one that has not begun has no settings yet."""
        files = RunFolder(folder)
        rounds = load_scenario(files.settings).federation.rounds if files.settings.exists() else 0
        journal, now = Journal.read(files.journal), time.time()
        reason = stop_reason(folder)
        unfinished = "running" if is_busy(folder) else "stopped" if reason else "interrupted"
        state = "finished" if journal.finished else unfinished
        return cls(
            name=folder.name,
            round=journal.round,
            rounds=rounds,
            state=state,
            reason=reason if state == "stopped" else "",
            last_event_s=now - journal.lines[-1].time if journal.lines else 0.0,
            clients=_last_seen(files, journal, now),
        )


def result_line(folder: Path) -> str:
    """Return a run's result in one line: held-out accuracy, if any organisation reports counts."""
    lines = [line for line in read_metrics(RunFolder(folder).metrics) if isinstance(line, EvaluationMetrics)]
    if not lines:
        return "No organisation let counts of held-out answers out."
    by_decoding = ([line for line in lines if line.decoding == decoding] for decoding in ("sampled", "greedy"))
    return " ".join(_accuracy(evaluations) for evaluations in by_decoding if evaluations)


def _accuracy(evaluations: list[EvaluationMetrics]) -> str:
    """Return the last accuracy of a decoding, and how it compares with the first."""
    first, last = evaluations[0], evaluations[-1]
    text = f"{last.decoding.capitalize()} held-out accuracy after round {last.round}: {score(last.total)}"
    if len(evaluations) < 2:
        return f"{text}."
    change = "down" if last.accuracy < first.accuracy else "up" if last.accuracy > first.accuracy else "unchanged"
    return f"{text}, {change} from {first.accuracy:.1%} after round {first.round}."


def stop_reason(folder: Path) -> str:
    """Return why a run gave up; empty if it did not."""
    try:
        return str(json.loads(RunFolder(folder).stopped.read_text())["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _last_seen(files: RunFolder, journal: Journal, now: float) -> dict[str, float]:
    """Organisation -> seconds since its last update that counted."""
    times = {line.round: line.time for line in journal.of(Committed)}
    seen: dict[str, float] = {}
    for line in read_metrics(files.metrics):
        if isinstance(line, RoundMetrics):
            seen |= {name: now - times.get(line.round, 0.0) for name in line.clients}
    return seen
