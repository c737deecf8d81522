"""The lines that `fedgrpo server submit` prints of a run: one per event of the journal, with a round's figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import fmean

from ...common.analysis.reward_hacking import HackingWarning
from ...common.analysis.scores import score
from ..run.journal import Committed, Journal, JournalLine, Planned, Void, Warned, Withheld
from ..run.layout import RunFolder
from ..run.metrics import EvaluationMetrics, RoundMetrics, read_metrics


class JournalLines:
    """Prints what is new in a run's journal and metrics."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self._files, self._say = RunFolder(folder), say
        self._journal_lines = len(Journal.read(self._files.journal).lines)
        self._metrics_lines = len(read_metrics(self._files.metrics))

    def catch_up(self) -> None:
        """Print the lines written since the last call."""
        journal, metrics = Journal.read(self._files.journal), read_metrics(self._files.metrics)
        asked = {line.round: len(line.cohort) for line in journal.lines if isinstance(line, Planned)}
        rounds = {line.round: line for line in metrics if isinstance(line, RoundMetrics)}
        for line in journal.lines[self._journal_lines :]:
            self._print(journal_line(line, rounds, asked))
        for line in metrics[self._metrics_lines :]:
            if isinstance(line, EvaluationMetrics):
                self._print(evaluation_line(line))
        self._journal_lines, self._metrics_lines = len(journal.lines), len(metrics)

    def _print(self, line: str) -> None:
        self._say(f"{self._files.path.name}: {line}")


def journal_line(line: JournalLine, rounds: Mapping[int, RoundMetrics], asked: Mapping[int, int]) -> str:
    """Return one line about an event.

    Args:
        rounds: the metrics of each committed round, by its number.
        asked: how many clients were asked last in each round, by its number.
    """
    if isinstance(line, Planned):
        return f"round {line.round}, attempt {line.attempt}: {', '.join(line.cohort)} train"
    if isinstance(line, Committed):
        metrics = rounds.get(line.round)
        figures = _figures(metrics, asked.get(line.round, 0)) if metrics else ()
        return f"round {line.round} committed: {', '.join([*figures, f'adapter {line.adapter[:12]}'])}"
    if isinstance(line, Void):
        return f"round {line.round} void: {line.reason}"
    if isinstance(line, Warned):
        return str(
            HackingWarning(round=line.round, tripwire=line.tripwire, organisation=line.organisation, text=line.text)
        )
    if isinstance(line, Withheld):
        return str(line)
    return type(line).__name__.lower()


def _figures(metrics: RoundMetrics, asked: int) -> Iterator[str]:
    """Yield a committed round's figures. Means are over the clients whose policy lets the figure leave."""
    clients = metrics.clients.values()
    zero = [c.reported["groups/zero-variance-share"] for c in clients if "groups/zero-variance-share" in c.reported]
    counted = len(metrics.members or clients)
    yield f"{counted} of {max(asked, counted)} updates{' in one sum' if metrics.members else ''}"
    if metrics.rewards:
        yield f"reward mean {fmean(metrics.rewards):.3f}"
    if zero:
        yield f"{1 - fmean(zero):.0%} of groups with signal"
    yield f"{metrics.seconds:.1f} s"
    yield f"up {metrics.bytes_up / 1e6:.2f} MB, down {metrics.bytes_down / 1e6:.2f} MB"
    yield from (f"no update from {name} ({code})" for name, code in sorted(metrics.refused.items()))


def evaluation_line(line: EvaluationMetrics) -> str:
    """Return the accuracy of one evaluation, with its decoding named."""
    when = f"after round {line.round}" if line.round else "before round 1"
    return f"{when}: {line.decoding} accuracy {score(line.total)}"
