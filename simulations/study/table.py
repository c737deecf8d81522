"""A study's result as a table: Markdown for the folder, and the same cells for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...common.cli.tables import WholeTable

NOTHING = "–"
METHOD = (
    "Sampled, strict accuracy after the last round, mean over seeds and problems. Differences are paired by seed and "
    "problem; each end of an interval is the farther one of two 95 % intervals: a bootstrap over seeds and problems, "
    "and Student's t over the seeds. Each seed: its difference to the baseline, or its accuracy where there is none. "
    "MB and seconds are means over the seeds, of all clients; nothing crosses a network where a client trains alone."
)
SMOKE_RUN = (
    "Smoke run (--quick): one seed, 2 rounds and 40 problems show that the study file works, and nothing about the "
    "arms. For a comparison, run the study without --quick."
)
"""Stands above the figures of a smoke run, in place of comparisons."""
SMOKE_METHOD = (
    "Sampled, strict accuracy after the last round. MB and seconds are of all clients; nothing crosses a network where "
    "a client trains alone."
)


def headings(result: Mapping[str, Any]) -> list[str]:
    """Return the column titles; a smoke run has no column of differences."""
    against = [] if result["quick"] else [f"against {result['baseline']} (95 % interval)"]
    return ["arm", "accuracy", *against, "each seed", "up MB", "down MB", "seconds"]


def rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Return one list of cells per line; an arm without a finished seed has no line."""
    lines: list[list[str]] = []
    for arm in result["arms"].values():
        against = {comparison["label"]: comparison for comparison in arm["against"]}
        for row in arm["rows"]:
            comparison = against.get(row["label"])
            shares = (comparison or row)["by_seed"].values()
            seeds = [_points(share) if comparison else _share(share) for share in shares]
            first = row is arm["rows"][0]  # only the first line of an arm shows its cost
            cost = [_mb(arm["bytes_up"]), _mb(arm["bytes_down"]), f"{arm['seconds']:.0f}"] if first else [""] * 3
            difference = [] if result["quick"] else [_against(comparison)]
            lines.append([row["label"], _share(row["accuracy"]), *difference, ", ".join(seeds), *cost])
    return lines


def markdown(result: Mapping[str, Any]) -> str:
    """Return table.md: the question, the table, the comparisons in words, and the notes."""
    columns = headings(result)
    lines = [f"# {result['question']}", "", *([f"**{SMOKE_RUN}**", ""] if result["quick"] else [])]
    lines += [_line(columns), _line(["---"] * len(columns))]
    lines += [_line(study_runs) for study_runs in rows(result)]
    lines += ["", *(f"- {_sentence(text)}" for text in result["sentences"])] if result["sentences"] else []
    seeds, method = len(result["seeds"]), SMOKE_METHOD if result["quick"] else METHOD
    lines += ["", f"{seeds} seed{'s' * (seeds > 1)}, {result['problems']} held-out problems. {method}"]
    lines += ["", *result["notes"]] if result["notes"] else []
    lines += ["", f"Not counted: {', '.join(result['not_counted'])}."] if result["not_counted"] else []
    return "\n".join(lines) + "\n"


def print_result(result: Mapping[str, Any], console: Console) -> None:
    """Print the same for a person at a terminal."""
    console.print(Text(result["question"], "bold"))
    if result["quick"]:
        console.print(Text(SMOKE_RUN, "yellow"))
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in headings(result):
        text = heading in ("arm", "each seed")
        table.add_column(heading.replace(" (", "\n("), justify="left" if text else "right")
    for study_runs in rows(result):
        table.add_row(*map(Text, study_runs))
    console.print(WholeTable(table))
    for text in result["sentences"]:
        console.print(Text(_sentence(text)))
    for note in result["notes"]:
        console.print(Text(note, "dim"))


def _line(study_runs: list[str]) -> str:
    return f"| {' | '.join(study_runs)} |"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}." if text.startswith("no difference") else f"{text}."


def _against(comparison: Mapping[str, Any] | None) -> str:
    if comparison is None:
        return NOTHING
    low, high = (_points(bound) for bound in comparison["interval"])
    return f"{_points(comparison['difference'])} ({low} to {high})"


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"


def _share(share: float) -> str:
    return f"{share:.1%}"


def _mb(count: float | None) -> str:
    return NOTHING if count is None else f"{count / 1e6:.2f}"
