"""Runs of an operator: submitted, followed, and gone on with after a crash.

A killed SuperLink or ServerApp fails a Flower run for good. The federation is ours: a new Flower run continues it from
the journal, and clients answer what they have done already from their caches.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ..common.config import RunConfig, load_scenario
from ..common.errors import ConfigError, RunError
from ..common.files import write_atomic
from ..common.jsonl import Entry, read_lines
from ..common.protocol import Tally
from .flower import Flower
from .folder import ServerFolder
from .scores import score
from .store import STOPPED_FILE, Store

LOOK_S = 1.0
ASK_FLOWER_S = 15.0
DEAD_S = 5.0
"""A run whose ServerApp let go of the run folder this long ago without finishing has lost it."""
SUPERLINK_PATIENCE_S = 180.0
"""How long a run that goes on after a crash waits for the SuperLink."""
MAX_RESTARTS = 5
"""Crashes in a row, without a committed round between them, after which nobody should start it again unasked."""

Watch = Callable[[], None]


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


def submit(
    folder: ServerFolder,
    config: RunConfig,
    name: str,
    say: Callable[[str], None],
    watch: Watch | None = None,
) -> RunStatus:
    """Have a run played to its end, across crashes of SuperLink and ServerApp.

    Args:
        say: told what a person should know.
        watch: called every second while the run is followed; may raise. Without one, the journal's lines are said.

    Raises:
        ConfigError: there is such a run, or the name is none.
        RunError: it cannot be played to the end; says why and how to go on.
    """
    if is_busy(folder.runs / name):
        raise ConfigError(f"The run {name} is under way. `fedgrpo server status {folder.path}` shows it.")
    if (folder.runs / name / "journal.jsonl").exists():
        if RunStatus.read(folder.runs / name).state == "finished":
            raise ConfigError(f"The run {name} is finished. Give this one another name (--run).")
        raise ConfigError(f"There is a run {name} already. Go on with it: fedgrpo server resume {folder.path} {name}")
    return _played(folder, config, name, say, watch)


def resume(folder: ServerFolder, name: str, say: Callable[[str], None], watch: Watch | None = None) -> RunStatus:
    """Go on with an interrupted run, with its own settings.

    Raises:
        ConfigError: there is no such run, or it is under way.
    """
    file = folder.runs / name / "config.resolved.toml"
    if not file.exists() and (reason := stop_reason(file.parent)):
        raise ConfigError(f"The run {name} never began, so there is nothing to go on from. {reason}")
    if not file.exists():
        known = ", ".join(folder.run_names()) or "none"
        raise ConfigError(f"There is no run {name} in {folder.runs}. Runs: {known}.")
    status = RunStatus.read(file.parent)
    if status.state == "finished":
        return status
    if status.state == "running":
        raise ConfigError(f"The run {name} is under way. `fedgrpo server status {folder.path}` shows it.")
    return _played(folder, load_scenario(file), name, say, watch)


def stop(folder: ServerFolder, name: str) -> None:
    """End a run. What is committed is safe, and `resume` goes on from it.

    Raises:
        ConfigError: it is not under way.
    """
    file = folder.path / "submitted" / f"{name}.run"
    if not file.exists() or not is_busy(folder.runs / name):
        raise ConfigError(f"The run {name} is not under way. `fedgrpo server status {folder.path}` shows the runs.")
    Store(folder.runs / name).stopped("Stopped by the operator.")
    Flower(folder).stop(int(file.read_text()))


def result_line(folder: Path) -> str:
    """What a run came to, in a line: held-out accuracy, if any organisation let counts out."""
    sampled = [e for e in read_lines(folder / "metrics.jsonl") if e.get("decoding") == "sampled"]
    if not sampled:
        return "No organisation let counts of held-out answers out."
    last = sampled[-1]
    return f"Held-out accuracy after round {last['round']}: {score(Tally(**cast('dict[str, int]', last['total'])))}"


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


def _played(
    folder: ServerFolder, config: RunConfig, name: str, say: Callable[[str], None], watch: Watch | None
) -> RunStatus:
    flower = Flower(folder)
    watch = watch or JournalLines(folder.runs / name, say).catch_up
    config = config.with_values(
        {"output.dir": str(folder.runs), "output.run": name, "output.nodes": str(folder.nodes_file)}
    )
    submitted = folder.path / "submitted" / f"{name}.toml"
    submitted.parent.mkdir(exist_ok=True)
    write_atomic(submitted, config.to_toml().encode())
    restarts, rounds = 0, 0
    while True:
        (folder.runs / name / STOPPED_FILE).unlink(missing_ok=True)
        run_id = _submitted(flower, submitted, patient=restarts > 0 or rounds > 0, say=say)
        write_atomic(submitted.with_suffix(".run"), str(run_id).encode())
        say(f"{name}: submitted as Flower run {run_id}; waiting for {config.federation.min_clients} clients or more")
        status = _Follower(flower, run_id, folder.runs / name, say).follow(watch)
        if status is not None and status.state == "finished":
            return status
        if reason := stop_reason(folder.runs / name):
            begun = (folder.runs / name / "journal.jsonl").exists()
            hint = f"\nGo on with: fedgrpo server resume {folder.path} {name}"
            raise RunError(reason + (hint if begun else "\nNothing was trained. Submit it again when that is mended."))
        committed = status.round if status else 0
        restarts, rounds = (0, committed) if committed > rounds else (restarts + 1, rounds)
        if restarts > MAX_RESTARTS or not (folder.runs / name).exists():
            raise RunError(
                f"The run {name} has ended {restarts} times without a committed round between. "
                f"{folder.logs / 'serverapp.log'} says why. Go on with: fedgrpo server resume {folder.path} {name}"
            )
        say(f"{name}: the ServerApp or the SuperLink has died; going on from the journal")


def _submitted(flower: Flower, file: Path, *, patient: bool, say: Callable[[str], None]) -> int:
    """Submit a run; one that goes on after a crash waits for the SuperLink to come back."""
    deadline = time.monotonic() + (SUPERLINK_PATIENCE_S if patient else 0.0)
    while True:
        try:
            return flower.submit(file)
        except RunError as error:
            if time.monotonic() >= deadline:
                raise
            say(f"cannot submit yet: {error}")
            time.sleep(LOOK_S * 5)


class _Follower:
    """Watches a run's folder, which changes at once, and now and then asks Flower, which takes seconds."""

    def __init__(self, flower: Flower, run_id: int, folder: Path, say: Callable[[str], None]) -> None:
        self._flower, self._run_id, self._folder, self._say = flower, run_id, folder, say
        self._seen_busy = False
        self._free_since = 0.0

    def follow(self, watch: Watch) -> RunStatus | None:
        """Wait for the end of this Flower run; returns how the federation stands, if it has begun."""
        next_question = time.monotonic() + ASK_FLOWER_S
        while not (self._ended_by_itself() or self._died()):
            watch()
            time.sleep(LOOK_S)
            if time.monotonic() >= next_question:
                if self._flower_gave_up():
                    break
                next_question = time.monotonic() + ASK_FLOWER_S
        watch()
        return RunStatus.read(self._folder) if (self._folder / "config.resolved.toml").exists() else None

    def _ended_by_itself(self) -> bool:
        if stop_reason(self._folder):
            return True
        journal = read_lines(self._folder / "journal.jsonl")
        return any(e.get("event") == "FINISHED" for e in journal) and not is_busy(self._folder)

    def _died(self) -> bool:
        """Whether the ServerApp held the run folder and has let go of it. Ends what is left of the Flower run."""
        now = time.monotonic()
        if is_busy(self._folder):
            self._seen_busy, self._free_since = True, 0.0
        elif self._seen_busy:
            self._free_since = self._free_since or now
            if now - self._free_since > DEAD_S:
                self._stop_flower()
                return True
        return False

    def _flower_gave_up(self) -> bool:
        try:
            return self._flower.status(self._run_id).startswith("finished")
        except RunError as error:
            self._say(f"cannot ask the SuperLink: {error}")
            return False

    def _stop_flower(self) -> None:
        try:
            self._flower.stop(self._run_id)
        except RunError as error:  # it may have failed already, or the SuperLink may be starting
            self._say(f"Flower run {self._run_id}: {error}")


class JournalLines:
    """Says what is new in a run's journal."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self._folder, self._say = folder, say
        self._told = len(read_lines(folder / "journal.jsonl"))

    def catch_up(self) -> None:
        """Say the lines written since the last call."""
        lines = read_lines(self._folder / "journal.jsonl")
        for line in lines[self._told :]:
            self._say(f"{self._folder.name}: {_shown(line)}")
        self._told = len(lines)


def _shown(entry: Entry) -> str:
    match entry.get("event"):
        case "PLANNED":
            cohort = entry.get("cohort")
            names = ", ".join(map(str, cohort)) if isinstance(cohort, (list, tuple)) else ""  # pyright: ignore
            return f"round {entry.get('round')}, attempt {entry.get('attempt')}: {names} train"
        case "COMMITTED":
            return f"round {entry.get('round')} committed, adapter {str(entry.get('adapter'))[:12]}"
        case "VOID":
            return f"round {entry.get('round')} void: {entry.get('reason')}"
        case event:
            return str(event).lower()


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
