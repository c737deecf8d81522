"""How a run stands, from its folder alone."""

from __future__ import annotations

import fcntl
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ...common.analysis.scores import score
from ...common.messages.messages import Tally
from ...common.settings.run_config import load_scenario
from ...common.storage.jsonl import Entry, read_lines
from .store import STOPPED_FILE, Store


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
        file, store = folder / "config.resolved.toml", Store(folder)
        rounds = load_scenario(file).federation.rounds if file.exists() else 0
        journal, now = read_lines(store.journal), time.time()
        committed = [e for e in journal if e.get("event") == "COMMITTED"]
        finished = any(e.get("event") == "FINISHED" for e in journal)
        reason = stop_reason(folder)
        state = "finished" if finished else "running" if is_busy(folder) else "stopped" if reason else "interrupted"
        return cls(
            name=folder.name,
            round=max((int(str(e["round"])) for e in committed), default=0),
            rounds=rounds,
            state=state,
            reason=reason if state == "stopped" else "",
            last_event_s=now - _time_of(journal[-1]) if journal else 0.0,
            clients=_last_seen(store, committed, now),
        )


def result_line(folder: Path) -> str:
    """What a run came to, in a line: held-out accuracy, if any organisation let counts out."""
    evaluations = [e for e in read_lines(folder / "metrics.jsonl") if e.get("kind") == "evaluation"]
    if not evaluations:
        return "No organisation let counts of held-out answers out."
    return " ".join(
        _accuracy(decoding, [e for e in evaluations if e.get("decoding") == decoding])
        for decoding in ("sampled", "greedy")
        if any(e.get("decoding") == decoding for e in evaluations)
    )


def _accuracy(decoding: str, evaluations: list[Entry]) -> str:
    """Return the last accuracy of a decoding, and how it compares with the first."""
    first, last = (score(Tally(**cast("dict[str, int]", e["total"]))) for e in (evaluations[0], evaluations[-1]))
    text = f"{decoding.capitalize()} held-out accuracy after round {evaluations[-1]['round']}: {last}"
    if len(evaluations) < 2:
        return f"{text}."
    change = (
        "down from" if last.strict < first.strict else "up from" if last.strict > first.strict else "unchanged from"
    )
    return f"{text}, {change} {first.strict:.1%} after round {evaluations[0]['round']}."


def stop_reason(folder: Path) -> str:
    """Why a run ended by itself without finishing; empty where it did not."""
    try:
        return str(json.loads((folder / STOPPED_FILE).read_text())["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def is_busy(folder: Path) -> bool:
    """Whether a ServerApp holds the run folder."""
    try:
        with (folder / ".lock").open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _last_seen(store: Store, committed: list[Entry], now: float) -> dict[str, float]:
    """Organisation -> seconds since its last update that counted."""
    times = {e.get("round"): _time_of(e) for e in committed}
    seen: dict[str, float] = {}
    for line in read_lines(store.metrics):
        clients = line.get("clients")
        if line.get("kind") == "round" and isinstance(clients, dict):
            when = times.get(line.get("round"), 0.0)
            seen |= {str(name): now - when for name in clients}  # pyright: ignore
    return seen


def _time_of(entry: Entry) -> float:
    value = entry.get("time")
    return float(value) if isinstance(value, (int, float)) else 0.0
