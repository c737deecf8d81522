"""report.html: one file, no network, that shows what a run came to and what it consists of."""

from __future__ import annotations

import io
from collections.abc import Callable
from math import nan
from pathlib import Path
from typing import Any

from ...common.analysis.scores import points, score
from ...common.foreign import printable
from ...common.messages.messages import Tally
from ...common.messages.metric_names import TRAIN_METRICS
from ...common.storage.atomic import write_atomic
from ...common.storage.jsonl import read_lines
from ...server.run.reader import Run, accuracy
from .summary import falls, notes, privacy_notes

TEMPLATE = Path(__file__).parent / "report.html.jinja"
SHARED_REWARDS = ("reward/mean", "reward/std")
HABITS = tuple(name for name in TRAIN_METRICS if name.startswith("completion/") and name.endswith("-share"))


def write_report(run: Run) -> Path:
    """Write the report into the run's folder, and return its path."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_shown)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    page = template.render(
        run=run,
        result=run.result(),
        climb=run.climb,
        figures=figures(run),
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


def figures(run: Run) -> list[tuple[str, str]]:
    """(title, SVG) of every curve."""
    drawn = [("Held-out accuracy", _svg(lambda axes: _accuracy(axes, run)))]
    if run.rounds:
        drawn += [
            ("Reward of each client", _svg(lambda axes: _per_client(axes, run, "reward/mean", "mean reward"))),
            (
                "Groups without signal",
                _svg(lambda axes: _per_client(axes, run, "groups/zero-variance-share", "share with equal rewards")),
            ),
            ("Each reward function, mean over clients", _svg(lambda axes: _reward_functions(axes, run))),
            ("Completion length", _svg(lambda axes: _per_client(axes, run, "completion/mean-length", "tokens"))),
            ("Habits of the completions, mean over clients", _svg(lambda axes: _completion_stats(axes, run))),
            ("Entropy", _svg(lambda axes: _per_client(axes, run, "policy/entropy", "nats per token"))),
            ("Bytes", _svg(lambda axes: _bytes(axes, run))),
            ("Aggregation error", _svg(lambda axes: _error(axes, run))),
        ]
    drawn.append(("How it answers", _svg(lambda axes: _styles(axes, run))))
    for column in run.class_columns:
        drawn.append((f"Accuracy by {column}", _svg(lambda axes, column=column: _by_class(axes, run, column))))
    return drawn


def _svg(draw: Callable[[Any], None]) -> str:
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    with mpl.rc_context({"svg.fonttype": "none", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = plt.subplots(figsize=(5.2, 3.0), layout="constrained")
        draw(axes)
        axes.set_xlabel("round")
        axes.grid(alpha=0.2)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="x-small", frameon=False)
        file = io.StringIO()
        figure.savefig(file, format="svg")
        plt.close(figure)
    text = file.getvalue()
    return text[text.index("<svg") :]


def _accuracy(axes: Any, run: Run) -> None:
    for name, evaluated, style in (("sampled", run.sampled, "o-"), ("greedy", run.greedy, "s--")):
        rounds = [e.round for e in evaluated]
        axes.plot(rounds, [score(e.total).strict for e in evaluated], style, markersize=3, label=f"{name}, strict")
    first = score(run.before.total).strict
    spans = [score(e.total) for e in run.sampled]
    low, high = [first + s.gain_low for s in spans], [first + s.gain_high for s in spans]
    axes.fill_between([e.round for e in run.sampled], low, high, alpha=0.15)
    axes.plot([e.round for e in run.sampled], [s.lenient for s in spans], ":", label="sampled, lenient")
    axes.set_ylim(0, 1)


def _per_client(axes: Any, run: Run, metric: str, label: str) -> None:
    for name in sorted({name for line in run.rounds for name in line.clients}):
        parts = [(line.round, line.clients[name]) for line in run.rounds if name in line.clients]
        points = [(number, part.reported.get(metric, nan)) for number, part in parts]
        axes.plot(*zip(*points, strict=True), "o-", markersize=3, label=name)
    axes.set_ylabel(label)
    axes.set_ylim(bottom=0)


def _reward_functions(axes: Any, run: Run) -> None:
    found = {key for line in run.rounds for client in line.clients.values() for key in client.reported}
    names = sorted(k for k in found if k.startswith("reward/") and k.endswith("/mean") and k not in SHARED_REWARDS)
    for key in names:
        points = _means(run, key)
        axes.plot(*zip(*points, strict=True), "o-", markersize=3, label=key.split("/")[1])
    axes.set_ylabel("mean, in the function's own units")


def _completion_stats(axes: Any, run: Run) -> None:
    for key in HABITS:
        points = _means(run, key)
        if points:
            label = key.removeprefix("completion/").removesuffix("-share")
            axes.plot(*zip(*points, strict=True), "o-", markersize=3, label=label)
    axes.set_ylabel("share of completions")
    axes.set_ylim(0, 1)


def _means(run: Run, metric: str) -> list[tuple[int, float]]:
    """(round, mean over the clients that report the metric)."""
    lines = [
        (line.round, [client.reported[metric] for client in line.clients.values() if metric in client.reported])
        for line in run.rounds
    ]
    return [(number, sum(values) / len(values)) for number, values in lines if values]


def _bytes(axes: Any, run: Run) -> None:
    rounds = [line.round for line in run.rounds]
    up, down = ([line.bytes_up / 1e6 for line in run.rounds], [line.bytes_down / 1e6 for line in run.rounds])
    for values, label in ((up, "clients to server"), (down, "server to clients")):
        axes.plot(rounds, values, "o-", markersize=3, label=label)
    axes.set_ylabel("MB per round, all clients")
    axes.set_ylim(bottom=0)


def _error(axes: Any, run: Run) -> None:
    errors = [(line.round, line.aggregation_error) for line in run.rounds if line.aggregation_error is not None]
    if errors:
        axes.plot(*zip(*errors, strict=True), "o-", markersize=3)
    axes.set_ylabel("distance from the mean product, relative")
    axes.set_ylim(bottom=0)


def _by_class(axes: Any, run: Run, column: str) -> None:
    for value in sorted({value for e in run.sampled for value in e.of(column)}):
        points = [(e.round, accuracy(e.of(column).get(value, Tally()))) for e in run.sampled]
        shown = [(number, found) for number, found in points if found is not None]
        axes.plot(*zip(*shown, strict=True), "o-", markersize=3, label=value)
    axes.set_ylim(0, 1)


def _styles(axes: Any, run: Run) -> None:
    for value in sorted({value for e in run.sampled for value in e.of("style")}):
        shares = [
            e.of("style")[value].problems / e.total.problems if value in e.of("style") else 0 for e in run.sampled
        ]
        axes.plot([e.round for e in run.sampled], shares, "o-", markersize=3, label=value)
    axes.set_ylabel("share of answers")
    axes.set_ylim(0, 1)


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
