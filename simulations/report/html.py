"""report.html: one file, no network, that shows what a run came to and what it consists of."""

from __future__ import annotations

from math import nan
from pathlib import Path
from typing import Any

from ...common.analysis.scores import points
from ...common.foreign import printable
from ...common.storage.atomic import write_atomic
from ...common.storage.jsonl import read_lines
from ...server.run.reader import Run
from .figures import figures
from .sentences import again, sentences
from .summary import falls, notes, privacy_notes

TEMPLATE = Path(__file__).parent / "report.html.jinja"


def write_report(run: Run) -> Path:
    """Write the report into the run's folder, and return its path."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_shown)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    page = template.render(
        run=run,
        result=run.result(),
        climb=run.climb,
        figures=[(figure.title, figure.svg()) for figure in figures(run)],
        sentences=sentences(run),
        again=again(run),
        classes=run.class_rows(),
        clients=_client_rows(run),
        samples=_samples(run),
        settings=run.config.flat(),
        notes=[*notes(run.config), *privacy_notes(run)],
        falls=falls(run),
        points=points,
    )
    write_atomic(run.files.report, page.encode())
    return run.files.report


def _shown(value: object) -> object:
    """Return a value as the page shows it: names may come from clients. Line breaks of a completion stay; markup, which
    is a subclass of str, is our own.
    """
    return "\n".join(map(printable, value.split("\n"))) if type(value) is str else value


def _client_rows(run: Run) -> list[dict[str, Any]]:
    if not run.rounds:
        return []
    rows = []
    for contribution in run.contributions():
        name = contribution.organisation
        mine = [line.clients[name] for line in run.rounds if name in line.clients]
        rows.append(
            {
                "account": contribution,
                "first": mine[0].reported.get("reward/mean", nan),
                "last": mine[-1].reported.get("reward/mean", nan),
                "examples": sum(part.examples for part in mine),
                "seconds": sum(part.reported.get("seconds/total", nan) for part in mine),
                "generate": sum(part.reported.get("seconds/generate", nan) for part in mine),
            }
        )
    return rows


def _samples(run: Run) -> list[dict[str, Any]]:
    """The samples after the last evaluated round."""
    lines = read_lines(run.files.samples)
    last = {(line["client"], line["question"]): line for line in lines if line["round"] == run.after.round}
    return list(last.values())
