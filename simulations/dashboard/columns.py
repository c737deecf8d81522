"""The metrics of a run by column, read on as the run goes on: what a chart needs, at little memory.

Array shapes are the suffix of a name: R committed rounds, C clients.
"""

from __future__ import annotations

import warnings
from array import array
from collections.abc import Iterable, Mapping
from math import nan
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from ...common.errors import RunError
from ...common.messages.messages import Tally
from ...common.storage.jsonl import Entry
from ...common.storage.tail import Tail
from ...server.run.metrics import EvaluationMetrics, former_names, parsed_metrics

OF_A_ROUND = ("round/seconds", "round/bytes-up", "round/bytes-down", "round/update-norm", "aggregation/error")
SINCE = {before: name for name, before in former_names()}
"""Names of format 1 -> those of today."""


class Report(NamedTuple):
    """What one client reported in one round."""

    at: int
    """Place of the round among those committed."""
    names: tuple[str, ...]
    values: array[float]


class Columns:
    """The metrics of one run. `update` reads what was added to the file."""

    def __init__(self, path: Path) -> None:
        self._path, self._tail = path, Tail(path)
        self._clear()

    def _clear(self) -> None:
        self.rounds: list[int] = []
        """R numbers of rounds."""
        self.of_round: dict[str, array[float]] = {name: array("d") for name in OF_A_ROUND}
        """Name -> R values; NaN where the round has none."""
        self.refused: dict[int, dict[str, str]] = {}
        """Round -> organisation -> code."""
        self.evaluations: list[EvaluationMetrics] = []
        self._reports: dict[str, list[Report]] = {}
        """Client -> what it reported, round by round."""
        self._names: dict[tuple[str, ...], tuple[str, ...]] = {}
        """Metrics of a report as they are written -> under today's names; most reports have the same."""
        self._stacked: dict[str, tuple[int, dict[tuple[str, ...], tuple[list[int], np.ndarray]]]] = {}
        """Client -> number of reports, and `_tables` of them."""

    def update(self) -> bool:
        """Read what was added since the last call, and return whether there was anything.

        Raises:
            RunError: a line is damaged.
        """
        entries = self._tail.new()
        if self._tail.began_again:
            self._clear()
        for entry in entries:
            try:
                self._add(entry)
            except (ValueError, TypeError, AttributeError) as error:
                raise RunError(f"{self._path} is damaged: {error}.") from error
        return bool(entries) or self._tail.began_again

    @property
    def metrics(self) -> list[str]:
        """Return the names of what clients report."""
        return sorted(
            {name for reports in self._reports.values() for names in {r.names for r in reports} for name in names}
        )

    @property
    def clients(self) -> list[str]:
        """Return the names of all clients, in order."""
        return sorted(self._reports)

    def by_client(self, metric: str) -> dict[str, list[float | None]]:
        """Return one metric of each client that reports it, by round (C x R); None where it did not."""
        columns = {name: self._column(metric, name) for name in self.clients}
        return {name: plain(values) for name, values in columns.items() if np.isfinite(values).any()}

    def mean(self, metric: str) -> list[float | None]:
        """Return the mean of a metric over the clients that report it, by round (R values)."""
        if not self._reports or not self.rounds:
            return [None] * len(self.rounds)
        with warnings.catch_warnings():  # a round in which none reports it is NaN
            warnings.simplefilter("ignore", RuntimeWarning)
            return plain(np.nanmean(np.stack([self._column(metric, name) for name in self.clients]), axis=0))

    def last(self, metric: str, client: str) -> float | None:
        """Return the last value that a client reported."""
        for report in reversed(self._reports.get(client, [])):
            if metric in report.names:
                return plain([report.values[report.names.index(metric)]])[0]
        return None

    def total(self, metric: str, client: str) -> float:
        """Return the sum of a client's values."""
        return float(np.nansum(self._column(metric, client)))

    def taken(self, client: str) -> int:
        """Return how many updates of a client counted."""
        return len(self._reports.get(client, []))

    def _column(self, metric: str, client: str) -> np.ndarray:
        column = np.full(len(self.rounds), nan)
        for names, (at, values) in self._tables(client).items():
            if metric in names:
                column[at] = values[:, names.index(metric)]
        return column

    def _tables(self, client: str) -> dict[tuple[str, ...], tuple[list[int], np.ndarray]]:
        """Return a client's reports by the metrics in them: the places of the rounds, and a row of values for each."""
        reports = self._reports.get(client, [])
        count, tables = self._stacked.get(client, (0, {}))
        if count != len(reports):
            grouped: dict[tuple[str, ...], list[Report]] = {}
            for report in reports:
                grouped.setdefault(report.names, []).append(report)
            tables = {n: ([r.at for r in same], np.array([r.values for r in same])) for n, same in grouped.items()}
            self._stacked[client] = len(reports), tables
        return tables

    def _add(self, entry: Entry) -> None:
        if entry.get("kind") != "round":
            line = parsed_metrics(entry)
            if isinstance(line, EvaluationMetrics):
                self.evaluations.append(line)
            return
        number = entry["round"]
        if type(number) is not int:
            raise ValueError(f"round is {number!r:.40}")
        at = len(self.rounds)
        self.rounds.append(number)
        found = {SINCE.get(name, name): value for name, value in entry.items()}
        for name, column in self.of_round.items():
            column.append(_number(found.get(name)))
        refused = cast("Mapping[str, str]", entry.get("refused") or {})
        if refused:
            self.refused[number] = {str(name): str(code) for name, code in refused.items()}
        for client, reported in cast("Mapping[str, Mapping[str, Any]]", entry["clients"]).items():
            written = tuple(reported)
            if (names := self._names.get(written)) is None:
                names = self._names[written] = tuple(SINCE.get(name, name) for name in written)
            self._reports.setdefault(client, []).append(Report(at, names, array("d", reported.values())))


def by_decoding(evaluations: Iterable[EvaluationMetrics], decoding: str) -> list[tuple[int, Tally]]:
    """Return (round, counts) of the evaluations with one decoding; of a round that was evaluated again, the last."""
    return sorted({e.round: e.total for e in evaluations if e.decoding == decoding}.items())


def plain(values: Iterable[float]) -> list[float | None]:
    """Return numbers as JSON has them: None for what is not finite."""
    listed = values.tolist() if isinstance(values, np.ndarray) else list(values)
    return [round(value, 6) if abs(value) < 1e300 else None for value in listed]


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else nan
