"""The lines that `fedgrpo server submit` prints of a run: one per event of the journal, with a round's figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, cast

from ...common.analysis.reward_hacking import HackingWarning
from ...common.analysis.scores import score
from ...common.messages.messages import Tally
from ...common.storage.jsonl import Entry, read_lines


class JournalLines:
    """Prints what is new in a run's journal and metrics."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self._folder, self._say = folder, say
        self._journal_lines = len(read_lines(folder / "journal.jsonl"))
        self._metrics_lines = len(read_lines(folder / "metrics.jsonl"))

    def catch_up(self) -> None:
        """Print the lines written since the last call."""
        journal, metrics = read_lines(self._folder / "journal.jsonl"), read_lines(self._folder / "metrics.jsonl")
        cohorts = {e.get("round"): cast("Sequence[str]", e["cohort"]) for e in journal if e.get("event") == "PLANNED"}
        rounds = {line.get("round"): line for line in metrics if line.get("kind") == "round"}
        for entry in journal[self._journal_lines :]:
            self._print(journal_line(entry, rounds, cohorts))
        for line in metrics[self._metrics_lines :]:
            if line.get("kind") == "evaluation":
                self._print(evaluation_line(line))
        self._journal_lines, self._metrics_lines = len(journal), len(metrics)

    def _print(self, line: str) -> None:
        self._say(f"{self._folder.name}: {line}")


def journal_line(entry: Entry, rounds: Mapping[object, Entry], cohorts: Mapping[object, Sequence[str]]) -> str:
    """Return one line about an event.

    Args:
        rounds: the metrics of each committed round, by its number.
        cohorts: who was asked last in each round, by its number.
    """
    number = entry.get("round")
    match entry.get("event"):
        case "PLANNED":
            names = ", ".join(cohorts.get(number, ()))
            return f"round {number}, attempt {entry.get('attempt')}: {names} train"
        case "COMMITTED":
            figures = round_figures(rounds.get(number, {}), len(cohorts.get(number, ())))
            return f"round {number} committed: {figures}adapter {str(entry.get('adapter'))[:12]}"
        case "VOID":
            return f"round {number} void: {entry.get('reason')}"
        case "WARNED":
            texts = {key: str(entry.get(key)) for key in ("tripwire", "organisation", "text")}
            return str(HackingWarning(round=int(str(number)), **texts))
        case event:
            return str(event).lower()


def round_figures(metrics: Mapping[str, Any], asked: int) -> str:
    """Return a committed round's figures as text that ends in a comma, or nothing where there are none.

    Means are over the clients whose policy lets the figure leave.
    """
    if not metrics:
        return ""
    clients: dict[str, dict[str, float]] = metrics["clients"]
    rewards = [c["reward/mean"] for c in clients.values() if "reward/mean" in c]
    signal = [1 - c["groups/zero-variance-share"] for c in clients.values() if "groups/zero-variance-share" in c]
    parts = [
        f"{len(clients)} of {max(asked, len(clients))} updates",
        f"reward mean {fmean(rewards):.3f}" if rewards else "",
        f"{fmean(signal):.0%} of groups with signal" if signal else "",
        f"{metrics['seconds']:.1f} s",
        f"up {metrics['bytes_up'] / 1e6:.2f} MB, down {metrics['bytes_down'] / 1e6:.2f} MB",
    ]
    parts += [f"no update from {name} ({code})" for name, code in sorted(metrics.get("refused", {}).items())]
    return "".join(f"{part}, " for part in parts if part)


def evaluation_line(line: Mapping[str, Any]) -> str:
    """Return the accuracy of one evaluation, with its decoding named."""
    when = f"after round {line['round']}" if line["round"] else "before round 1"
    return f"{when}: {line['decoding']} accuracy {score(Tally(**line['total']))}"
