"""One run as the dashboard shows it, from its folder alone: whoever may read the folder may see it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...common.analysis.scores import score
from ...common.errors import ConfigError, RunError
from ...common.foreign import printable
from ...common.storage.jsonl import Entry, read_lines
from ...common.storage.tail import Tail
from ...server.run.journal import NAMES, Committed, Finished, Planned, Resumed, Void, parsed_event
from ...server.run.layout import RunFolder
from ...server.run.lock import is_busy
from .columns import Columns, by_decoding, plain
from .journal_text import sentence
from .settings_view import SettingsView

MEANS = (
    "reward/mean",
    "groups/zero-variance-share",
    "policy/kl",
    "policy/entropy",
    "completion/mean-length",
    "completion/truncated-share",
    "seconds/generate",
    "seconds/reward",
    "seconds/update",
)
BOOKKEEPING: Entry = {"positions": {}, "strikes": {}, "counted": {}, "rewards": {}}
"""Of a commit, for each client: nothing that is shown, and most of a journal."""
EVENTS_SHOWN = 200
SAMPLES_SHOWN = 60
LONGEST = 4000
"""Characters of a sample that are shown."""


@dataclass(slots=True)
class Phase:
    """What the journal says of the moment."""

    round: int = 0
    cohort: tuple[str, ...] = ()
    """Who is asked to train now; empty between rounds."""
    finished: bool = False


class RunView:
    """A run folder, read on as the run goes on."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self._files = RunFolder(folder)
        self._columns = Columns(self._files.metrics)
        self._journal = Tail(self._files.journal)
        self._events: list[dict[str, Any]] = []
        self._phase = Phase()
        self._begun = self._updated = 0.0
        self._read: SettingsView | None = None
        self.version = 0
        """Counts the changes that were read."""

    def update(self) -> bool:
        """Read what the run has written since the last call, and return whether there was anything.

        Raises:
            RunError: a file is damaged.
            ConfigError: the folder holds no run.
        """
        lines = self._journal.new()
        if self._journal.began_again:
            self._events, self._phase, self._read = [], Phase(), None
        for line in lines:
            self._take(line)
        if not self._events:
            raise ConfigError(f"{self.folder} is not a run folder: {self._files.journal.name} is missing or empty.")
        changed = self._columns.update() or bool(lines)
        self.version += changed
        return changed

    def _take(self, entry: Entry) -> None:
        heavy = BOOKKEEPING if entry.get("event") == "COMMITTED" else {}
        try:
            line = parsed_event(entry | heavy)
        except ValueError as error:
            raise RunError(f"{self._files.journal} is damaged: {error}.") from error
        match line:
            case Planned(round=number, cohort=cohort):
                self._phase = Phase(number, cohort)
            case Committed() | Void() | Resumed():
                self._phase = Phase(self._phase.round)
            case Finished():
                self._phase = Phase(line.round, finished=True)
            case _:
                pass
        self._begun, self._updated = self._begun or line.time, line.time
        self._events.append({"time": line.time, "event": NAMES[type(line)], "text": printable(sentence(line))})

    @property
    def _settings(self) -> SettingsView:
        if self._read is None:
            self._read = SettingsView(self._files.settings)
        return self._read

    def state(self) -> str:
        """Return `finished`, `running`, `stopped` (it gave up) or `interrupted`."""
        if self._phase.finished:
            return "finished"
        if is_busy(self.folder):
            return "running"
        return "stopped" if self._files.stopped.exists() else "interrupted"

    def summary(self) -> dict[str, Any]:
        """Return one line of the list of runs."""
        columns, settings = self._columns, self._settings
        evaluated = by_decoding(columns.evaluations, "sampled")
        rewards = columns.mean("reward/mean")
        return {
            "name": self.name,
            "state": self.state(),
            "round": columns.rounds[-1] if columns.rounds else 0,
            "rounds": settings["federation.rounds"],
            "model": printable(str(settings["model.name"])),
            "method": printable(settings.method),
            "seed": settings["federation.seed"],
            "clients": len(columns.clients),
            "before": score(evaluated[0][1]).strict if evaluated else None,
            "after": score(evaluated[-1][1]).strict if evaluated else None,
            "rewards": rewards[-60:],
            "begun": self._begun,
            "updated": self._updated,
            "version": self.version,
        }

    def overview(self) -> dict[str, Any]:
        """Return everything of the page but single clients' curves."""
        columns = self._columns
        functions = [
            m for m in columns.metrics if m.startswith("reward/") and m.count("/") == 2 and m.endswith("/mean")
        ]
        return {
            **self.summary(),
            "settings": self._settings.changed(),
            "accuracy": {decoding: self._accuracy(decoding) for decoding in ("sampled", "greedy")},
            "at": columns.rounds,
            "of_round": {name: plain(values) for name, values in columns.of_round.items()},
            "means": {name: columns.mean(name) for name in MEANS},
            "functions": {printable(name.split("/")[1]): columns.mean(name) for name in functions},
            "metrics": columns.metrics,
            "people": self._clients(),
            "refused": self._refused(),
            "events": self._events[-EVENTS_SHOWN:],
        }

    def events(self) -> list[dict[str, Any]]:
        """Return everything that the journal tells, in words, with its time in seconds since 1970."""
        return self._events

    def client_metric(self, metric: str) -> dict[str, Any]:
        """Return one metric of all clients by round."""
        values = self._columns.by_client(metric)
        return {"at": self._columns.rounds, "clients": {printable(name): column for name, column in values.items()}}

    def samples(self) -> list[dict[str, Any]]:
        """Return held-out completions before and after, of the last evaluation that has some."""
        lines = read_lines(self._files.samples)
        newest: dict[tuple[object, object], dict[str, Any]] = {(x.get("client"), x.get("question")): x for x in lines}
        last = max((x["round"] for x in newest.values() if isinstance(x.get("round"), int)), default=0)
        shown = [x for x in newest.values() if x.get("round") == last][:SAMPLES_SHOWN]
        return [{key: _text(value) for key, value in x.items()} for x in shown]

    def _accuracy(self, decoding: str) -> list[dict[str, Any]]:
        found = by_decoding(self._columns.evaluations, decoding)
        first = score(found[0][1]).strict if found else 0.0
        points = [(number, score(tally)) for number, tally in found]
        return [
            {
                "round": number,
                "strict": at.strict,
                "lenient": at.lenient,
                "truncated": at.truncated,
                "low": first + at.gain_low if number else at.strict,
                "high": first + at.gain_high if number else at.strict,
                "gain": at.gain,
                "interval": [at.gain_low, at.gain_high],
                "problems": at.problems,
            }
            for number, at in points
        ]

    def _clients(self) -> list[dict[str, Any]]:
        columns, phase = self._columns, self._phase
        names = sorted({*columns.clients, *phase.cohort})
        return [
            {
                "name": printable(name),
                "doing": self._doing(name),
                "rounds": columns.taken(name),
                "reward": columns.last("reward/mean", name),
                "silent": columns.last("groups/zero-variance-share", name),
                "share": columns.last("update/share", name),
                "seconds": columns.last("seconds/total", name),
                "bytes_up": columns.total("update/bytes-up", name),
                "bytes_down": columns.total("update/bytes-down", name),
                "refused": sum(name in refused for refused in columns.refused.values()),
                "epsilon": columns.last("privacy/epsilon", name),
            }
            for name in names
        ]

    def received(self) -> int:
        """Return how many updates of the round under way have arrived."""
        return sum(self._files.update(name).exists() for name in self._phase.cohort)

    def _doing(self, name: str) -> str:
        if self.state() != "running" or name not in self._phase.cohort:
            return ""
        return "update received" if self._files.update(name).exists() else f"round {self._phase.round}: working"

    def _refused(self) -> list[dict[str, Any]]:
        found = [(n, name, code) for n, codes in self._columns.refused.items() for name, code in codes.items()]
        return [{"round": n, "client": printable(name), "code": printable(code)} for n, name, code in found[-50:]]


def _text(value: object) -> object:
    """Return a sample's text with its line breaks, without what a terminal would obey."""
    return "\n".join(map(printable, value[:LONGEST].split("\n"))) if isinstance(value, str) else value
