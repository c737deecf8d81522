"""The figures of a report: drawn once, as SVG in the page's own colours, or as files for a paper."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite, nan
from pathlib import Path
from typing import Any, cast

from ...common.analysis.scores import score
from ...common.foreign import printable
from ...common.messages.messages import Tally
from ...common.messages.metric_names import TRAIN_METRICS
from ...common.storage.atomic import write_atomic
from ...server.run.reader import Run, accuracy

SHARED_REWARDS = ("reward/mean", "reward/std")
HABITS = tuple(name for name in TRAIN_METRICS if name.startswith("completion/") and name.endswith("-share"))
INK = "#010203"
"""Of text and axes; in a page it becomes the page's own colour, so that it can be read in light and dark."""
COLOURED = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color")
COLOURS = ("#2f7fc1", "#d9660f", "#2a9d74", "#c5579a", "#b08a00", "#5aa9d6", "#8460c9", "#7d858c")
"""Readable on white and on black."""
MANY = 10
"""More clients than this are drawn alike, with their mean."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure, before it is drawn."""

    title: str
    draw: Callable[[Any], None]
    """Draws on matplotlib axes."""

    @property
    def file(self) -> str:
        """Return its file's name, without the ending."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")

    def svg(self) -> str:
        """Return it as an SVG element in the colour of the text around it, with its last values in words."""
        with _drawn(self) as (figure, axes):
            file = io.StringIO()
            figure.savefig(file, format="svg", transparent=True)
            said = _in_words(self.title, axes)
        text = file.getvalue()
        text = text[text.index("<svg") :].replace(INK, "currentColor")
        return text.replace("<svg ", f'<svg role="img" aria-label="{_escaped(said)}" ', 1)

    def write(self, folder: Path) -> list[Path]:
        """Write it as an SVG and a PNG file, and return their paths."""
        paths = [folder / f"{self.file}.{kind}" for kind in ("svg", "png")]
        with _drawn(self) as (figure, _):
            for path in paths:
                file = io.BytesIO()
                figure.savefig(file, format=path.suffix[1:], dpi=200, facecolor="white")
                write_atomic(path, file.getvalue())
        return paths


def figures(run: Run) -> list[Figure]:
    """Return the figures of a run."""
    drawn = [Figure("Held-out accuracy", lambda axes: _accuracy(axes, run))]
    if run.rounds:

        def of_clients(metric: str, label: str) -> Callable[[Any], None]:
            return lambda axes: _per_client(axes, run, metric, label)

        drawn += [
            Figure("Reward of each client", of_clients("reward/mean", "mean reward")),
            Figure("Groups without signal", of_clients("groups/zero-variance-share", "share with equal rewards")),
            Figure("Each reward function, mean over clients", lambda axes: _reward_functions(axes, run)),
            Figure("Completion length", of_clients("completion/mean-length", "tokens")),
            Figure("Habits of the completions, mean over clients", lambda axes: _completion_stats(axes, run)),
            Figure("Entropy", of_clients("policy/entropy", "nats per token")),
            Figure("Bytes", lambda axes: _bytes(axes, run)),
            Figure("Aggregation error", lambda axes: _error(axes, run)),
        ]
    drawn.append(Figure("How it answers", lambda axes: _styles(axes, run)))
    drawn += [
        Figure(f"Accuracy by {column}", lambda axes, column=column: _by_class(axes, run, column))
        for column in run.class_columns
    ]
    return drawn


def write_figures(run: Run, folder: Path) -> list[Path]:
    """Write every figure of a run into a folder, as SVG and as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    return [path for figure in figures(run) for path in figure.write(folder)]


@contextmanager
def _drawn(figure: Figure) -> Iterator[tuple[Any, Any]]:
    import matplotlib as mpl

    mpl.use("agg")
    from cycler import cycler
    from matplotlib import pyplot as plt

    style: dict[str, Any] = dict.fromkeys(COLOURED, INK)
    style |= {"svg.fonttype": "none", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    style["axes.prop_cycle"] = cycler(color=COLOURS)
    with mpl.rc_context(cast(Any, style)):
        canvas, axes = plt.subplots(figsize=(5.2, 3.2), layout="constrained")
        figure.draw(axes)
        axes.set_xlabel("round")
        axes.grid(alpha=0.2)
        if axes.get_legend_handles_labels()[0]:
            canvas.legend(fontsize=9, frameon=False, loc="outside lower center", ncols=3)
        try:
            yield canvas, axes
        finally:
            plt.close(canvas)


def _in_words(title: str, axes: Any) -> str:
    """Return what a figure shows, for those who do not see it: each line's first and last value."""
    said = []
    for line in axes.get_lines():
        values = [float(value) for value in line.get_ydata() if isfinite(float(value))]
        if values and not line.get_label().startswith("_"):
            said.append(f"{line.get_label()} from {values[0]:.3g} to {values[-1]:.3g}")
    return f"{title} by round: {'; '.join(said[:MANY])}" if said else title


def _escaped(text: str) -> str:
    import html

    return html.escape(printable(text), quote=True)


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
    names = sorted({name for line in run.rounds for name in line.clients})
    many = len(names) > MANY
    for name in names:
        parts = [(line.round, line.clients[name]) for line in run.rounds if name in line.clients]
        points = [(number, part.reported.get(metric, nan)) for number, part in parts]
        if many:
            axes.plot(*zip(*points, strict=True), color=COLOURS[-1], alpha=0.4, linewidth=0.8)
        else:
            axes.plot(*zip(*points, strict=True), "o-", markersize=3, label=printable(name, 40))
    if many and (means := _means(run, metric)):
        axes.plot(*zip(*means, strict=True), linewidth=2, label=f"mean of {len(names)} clients")
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
