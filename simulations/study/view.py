"""What a person watches while a study runs: cells done, running and failed, and how long it may take yet."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ...common.cli.options import say
from ...common.cli.tables import WholeTable
from ...common.errors import FedGRPOError
from ...server.run.reader import Run, accuracy
from .play import Progress
from .study_runs import FINISHED, StudyRun


@contextmanager
def watching(states: Mapping[StudyRun, str]) -> Generator[Callable[[Progress], None]]:
    """Show progress on stderr while the block runs: a live picture on a terminal, plain lines elsewhere."""
    console = Console(stderr=True)
    before = [study_run for study_run, state in states.items() if state == FINISHED]
    if not console.is_terminal:
        yield _Lines(before, len(states))
        return
    picture = _Picture(before, len(states))
    with Live(picture, console=console, refresh_per_second=2) as live:

        def show(now: Progress) -> None:
            picture.now = now
            live.update(picture)

        yield show


def time_left(now: Progress, elapsed_s: float) -> float | None:
    """Seconds until the end, if the rest goes on as what was played so far; None before anything is.

    Work is counted in batches. What is under way counts by the rounds it has committed.
    """
    done = sum(study_run.work for study_run in now.finished)
    rest = sum(study_run.work for study_run in now.waiting)
    for study_run in now.running:
        share = min(1.0, study_run.round / study_run.config.federation.rounds)
        done, rest = done + study_run.work * share, rest + study_run.work * (1 - share)
    return elapsed_s * rest / done if done else None


class _Lines:
    """One line per cell that begins, ends or fails."""

    def __init__(self, before: list[StudyRun], total: int) -> None:
        self._told: set[tuple[str, StudyRun]] = set()
        self._count, self._total = len(before), total
        if before:
            say(f"{len(before)} of {total} runs were finished before")

    def __call__(self, now: Progress) -> None:
        for study_run in now.running:
            if self._first("begins", study_run):
                self._say(f"{study_run.name} begins")
        for study_run in now.finished:
            if self._first("finished", study_run):  # reading the run takes a while
                self._count += 1
                self._say(f"{study_run.name} finished, accuracy {_accuracy(study_run)}")
        for study_run, tail in now.failed.items():
            if self._first("FAILED", study_run):
                self._say(f"{study_run.name} FAILED: {tail.splitlines()[-1]}")

    def _first(self, what: str, study_run: StudyRun) -> bool:
        known = (what, study_run) in self._told
        self._told.add((what, study_run))
        return not known

    def _say(self, text: str) -> None:
        say(f"{text} ({self._count} of {self._total} finished)")


class _Picture:
    """Drawn anew from the progress."""

    def __init__(self, before: list[StudyRun], total: int) -> None:
        self.now = Progress(waiting=[])
        self._before, self._total, self._started = before, total, time.monotonic()
        self._found: dict[StudyRun, str] = {study_run: _accuracy(study_run) for study_run in before}

    def __rich__(self) -> Group:
        now = self.now
        done = len(self._before) + len(now.finished)
        left = time_left(now, time.monotonic() - self._started)
        eta = f"about {left / 60:.0f} min left" if left is not None else "starting"
        bar = Table.grid(padding=(0, 1))
        counts = f"{done}/{self._total} runs, {len(now.running)} running, {len(now.failed)} failed"
        bar.add_row(counts, ProgressBar(total=self._total, completed=done, width=40), eta)
        parts = [
            Text(f"FAILED {study_run.name}: {tail.splitlines()[-1]}", "red") for study_run, tail in now.failed.items()
        ]
        return Group(bar, WholeTable(self._arms()), WholeTable(self._running()), *parts)

    def _arms(self) -> Table:
        self._found |= {
            study_run: _accuracy(study_run) for study_run in self.now.finished if study_run not in self._found
        }
        table = Table.grid(padding=(0, 2))
        for arm in dict.fromkeys(study_run.arm for study_run in self._found):
            values = ", ".join(value for study_run, value in self._found.items() if study_run.arm == arm)
            table.add_row(Text(arm), Text(values))
        return table

    def _running(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for study_run in self.now.running:
            table.add_row(
                Text(study_run.name), Text(f"round {study_run.round} of {study_run.config.federation.rounds}", "dim")
            )
        return table


def _accuracy(study_run: StudyRun) -> str:
    """The accuracy a cell ended with; nothing where its folder does not say."""
    try:
        run = Run.read(study_run.folder)
    except FedGRPOError:
        return ""
    return f"{accuracy(run.after.total) or 0.0:.1%}" if run.sampled else ""
