"""The figure of a study: accuracy over rounds, and optionally over bytes. The same result gives the same file."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...common.storage.atomic import write_atomic

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fedgrpo",  # otherwise the ids in the file are random
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
PANEL = (6.0, 3.6)
ACCURACY = "held-out accuracy (sampled, strict)"


def draw(result: Mapping[str, Any], path: Path, *, over_bytes: bool) -> None:
    """Write the figure as SVG.

    Args:
        over_bytes: a second panel with accuracy against all bytes that crossed the network.
    """
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    panels = 2 if over_bytes else 1
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(1, panels, figsize=(PANEL[0] * panels, PANEL[1]), layout="constrained")
        first, *others = [axes] if panels == 1 else list(axes)
        _over_rounds(first, result)
        for second in others:
            _over_bytes(second, result)
        for panel in (first, *others):
            panel.grid(alpha=0.2)
            panel.legend(frameon=False, fontsize="small")
        if result["quick"]:
            figure.suptitle("smoke run (--quick): not a result")
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
        plt.close(figure)
    write_atomic(path, file.getvalue())


def _played(result: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """(name, colour, arm) of every arm with a finished seed; an arm keeps its colour when others are missing."""
    arms = result["arms"].items()
    return [(name, f"C{i % 10}", arm) for i, (name, arm) in enumerate(arms) if arm["rows"]]


def _over_rounds(axes: Any, result: Mapping[str, Any]) -> None:
    for name, colour, arm in _played(result):
        curve, label = arm["curve"], f"{name} (mean of its clients)" if len(arm["rows"]) > 1 else name
        axes.plot(curve["rounds"], curve["mean"], "o-", color=colour, markersize=3, label=label)
        axes.fill_between(curve["rounds"], curve["low"], curve["high"], color=colour, alpha=0.15, lw=0)
    seeds = f"mean, lowest and highest of {len(result['seeds'])} seeds" if len(result["seeds"]) > 1 else "one seed"
    axes.set(xlabel=f"round ({seeds})", ylabel=ACCURACY)
    axes.xaxis.get_major_locator().set_params(integer=True)


def _over_bytes(axes: Any, result: Mapping[str, Any]) -> None:
    """Plot accuracy over bytes. Arms that send nothing have no place on a log axis: a dashed line at their accuracy."""
    for name, colour, arm in _played(result):
        row = arm["rows"][0]
        if arm["bytes_up"] is None:
            axes.axhline(row["accuracy"], color=colour, ls="--", lw=1, label=f"{name} (sends nothing)")
            continue
        total = arm["bytes_up"] + arm["bytes_down"]
        shares = list(row["by_seed"].values())
        axes.vlines(total, min(shares), max(shares), color=colour, alpha=0.5)
        axes.plot([total], [row["accuracy"]], "o", color=colour, label=name)
    axes.set(xscale="log", xlabel="bytes, up and down, all clients", ylabel=ACCURACY)
