"""What metrics.jsonl holds, given to the trackers that the run's settings name.

The file is what is followed: a resumed run gives the trackers what they missed, and what is not committed is not given.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict

from ...common.analysis.scores import score
from ...common.settings.run_config import RunConfig
from ...common.trackers.libraries import Place
from ...common.trackers.trackers import Point, Trackers
from .lines import as_entry
from .metrics import ClientMetrics, EvaluationMetrics, MetricsLine, RoundMetrics, read_metrics
from .store import Store

PROJECT = "fedgrpo"


@contextmanager
def following(config: RunConfig, store: Store, federation: str) -> Generator[Callable[[], None]]:
    """Trackers while the block runs. What is yielded gives them the lines of metrics.jsonl that are new.

    Args:
        federation: the federation's id, which no other run has, and a resumed one keeps.
    """
    if not config.output.tracker_uses:
        yield lambda: None
        return
    place = Place(
        folder=store.files.trackers,
        project=PROJECT,
        run=f"{store.folder.name}-{federation}",
        axis="round",
        settings={key: value for key, value in config.flat().items() if not key.startswith("output.")},
    )
    trackers, told = Trackers(config.output.tracker_uses, place), 0

    def catch_up() -> None:
        nonlocal told
        lines = read_metrics(store.files.metrics)
        for line in lines[told:]:
            trackers.log(point_of(line))
        told = len(lines)

    try:
        catch_up()
        yield catch_up
    finally:
        trackers.close()


def point_of(line: MetricsLine) -> Point:
    """Return a line of metrics.jsonl as figures by `area/name`; those of a client are `clients/NAME/area/name`."""
    if isinstance(line, RoundMetrics):
        return Point("rounds", line.round, _round_figures(line))
    return Point(line.decoding, line.round, _evaluation_figures(line))


def _round_figures(line: RoundMetrics) -> dict[str, float]:
    figures = _figures(line)
    figures |= {"round/attempt": line.attempt, "round/refused": len(line.refused), "round/clients": len(line.clients)}
    for name, client in line.clients.items():
        figures |= {f"clients/{name}/{key}": value for key, value in _figures(client).items()}
    return figures


def _figures(line: RoundMetrics | ClientMetrics) -> dict[str, float]:
    """Return the metrics of a line, by their names in the file."""
    return {
        key: float(value) for key, value in as_entry(line).items() if isinstance(value, (int, float)) and "/" in key
    }


def _evaluation_figures(line: EvaluationMetrics) -> dict[str, float]:
    area = f"evaluation/{line.decoding}"
    figures = {f"{area}/{name.replace('_', '-')}": value for name, value in asdict(score(line.total)).items()}
    for name, tally in line.classes.items():
        figures[f"{area}/class/{name}/strict"] = score(tally).strict
    return figures
