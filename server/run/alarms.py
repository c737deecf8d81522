"""The tripwires over a run's own files: told once each in the journal, and on whatever watches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from ...common.analysis.reward_hacking import HackingWarning, RewardHackingMonitor
from ...common.messages.messages import Tally
from ...common.storage.jsonl import read_lines
from .events import Warned, emit
from .store import Store

Line = dict[str, Any]


def replayed(lines: Iterable[Line], tripwires: RewardHackingMonitor) -> list[HackingWarning]:
    """Follow lines of metrics.jsonl, round by round, and return what they trip."""
    found: list[HackingWarning] = []
    by_round: dict[int, list[Line]] = {}
    for line in lines:
        by_round.setdefault(line["round"], []).append(line)
    for number in sorted(by_round):
        for line in by_round[number]:
            if line["kind"] == "round":
                for name, metrics in line["clients"].items():
                    tripwires.trained(name, number, metrics)
            elif line["decoding"] == "sampled":
                tripwires.evaluated(number, Tally(**line["total"]))
        found += tripwires.new_warnings()
    return found


class Alarms:
    """Looks at each round once it is committed and evaluated."""

    def __init__(self, store: Store) -> None:
        """Catch up with what the run's folder holds, and tell what a crash kept from being told."""
        self._store, self._tripwires = store, RewardHackingMonitor()
        journal = read_lines(store.journal)
        self._told = {(e["round"], e["tripwire"], e["organisation"]) for e in journal if e.get("event") == "WARNED"}
        self._tell(replayed(read_lines(store.metrics), self._tripwires))

    def look(self, number: int) -> None:
        """Tell what a round has tripped."""
        lines = (line for line in read_lines(self._store.metrics) if line.get("round") == number)
        self._tell(replayed(cast("Iterable[Line]", lines), self._tripwires))

    def _tell(self, found: list[HackingWarning]) -> None:
        for tripped in found:
            if (tripped.round, tripped.tripwire, tripped.organisation) not in self._told:
                self._store.log(
                    "WARNED",
                    round=tripped.round,
                    tripwire=tripped.tripwire,
                    organisation=tripped.organisation,
                    text=tripped.text,
                )
                emit(Warned(tripped))
