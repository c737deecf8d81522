"""The figure of an audit: the ROC curve of each signal, on logarithmic axes. The same audit gives the same file."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from ...common.analysis.roc import FALSE_POSITIVES, curve
from ...common.storage.atomic import write_atomic
from ..study.figure import STYLE
from .session import Audited


def draw(audited: Audited, path: Path) -> None:
    """Write the figure as SVG. Few false positives are what an attacker needs, so both axes are logarithmic."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(5.0, 4.4), layout="constrained")
        _curves(axes, audited)
        axes.grid(alpha=0.2)
        axes.legend(frameon=False, fontsize="small", loc="lower right")
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
        plt.close(figure)
    write_atomic(path, file.getvalue())


def _curves(axes: Any, audited: Audited) -> None:
    subjects, found = audited.subjects, audited.found
    members, others = subjects.places(subjects.members), subjects.places(subjects.others)
    low = 1 / max(found.members, found.others, 100)
    for number, each in enumerate(found.signals):
        false, true = curve(audited.scores[each.signal][members], audited.scores[each.signal][others])
        label = f"{each.signal} ({each.auc.value:.2f})"
        axes.step(false, true, where="post", color=f"C{number}", lw=2 if each is found.best else 1, label=label)
    axes.plot([low, 1], [low, 1], color="0.5", ls="--", lw=1, label="guessing (0.50)")
    axes.axvline(FALSE_POSITIVES, color="0.8", lw=1, zorder=0)
    axes.set(xscale="log", yscale="log", xlim=(low, 1), ylim=(low, 1.05))
    axes.set(xlabel="false positives: others taken for trained on", ylabel="true positives: recognised")
