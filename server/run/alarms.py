"""Reward-hacking warnings over a run's own files: logged once each to the journal and as an event."""

from __future__ import annotations

from collections.abc import Iterable

from ...common.analysis.reward_hacking import HackingWarning, RewardHackingMonitor
from . import events, journal
from .metrics import MetricsLine, RoundMetrics, read_metrics
from .store import Store


def replayed(lines: Iterable[MetricsLine], monitor: RewardHackingMonitor) -> list[HackingWarning]:
    """Follow the metrics of a run, round by round, and return the warnings they cause."""
    warnings: list[HackingWarning] = []
    by_round: dict[int, list[MetricsLine]] = {}
    for line in lines:
        by_round.setdefault(line.round, []).append(line)
    for number in sorted(by_round):
        for line in by_round[number]:
            if isinstance(line, RoundMetrics):
                for name, client in line.clients.items():
                    monitor.trained(name, number, client.reported)
            elif line.decoding == "sampled":
                monitor.evaluated(number, line.total)
        warnings += monitor.new_warnings()
    return warnings


class Alarms:
    """Looks at each round once it is committed and evaluated."""

    def __init__(self, store: Store) -> None:
        """Catch up with what the run's folder holds, and log the warnings that a crash prevented."""
        self._store, self._monitor = store, RewardHackingMonitor()
        logged = journal.Journal.read(store.files.journal).of(journal.Warned)
        self._logged = {(line.round, line.tripwire, line.organisation) for line in logged}
        self._log(replayed(read_metrics(store.files.metrics), self._monitor))

    def look(self, number: int) -> None:
        """Log what a round has tripped."""
        lines = [line for line in read_metrics(self._store.files.metrics) if line.round == number]
        self._log(replayed(lines, self._monitor))

    def _log(self, warnings: list[HackingWarning]) -> None:
        for warning in warnings:
            if (warning.round, warning.tripwire, warning.organisation) not in self._logged:
                self._store.log(
                    journal.Warned(
                        round=warning.round,
                        tripwire=warning.tripwire,
                        organisation=warning.organisation,
                        text=warning.text,
                    )
                )
                events.emit(events.Warned(warning))
