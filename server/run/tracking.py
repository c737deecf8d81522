"""What metrics.jsonl holds, given to the trackers that the run's settings name.

The file is what is followed: a resumed run gives the trackers what they missed, and what is not committed is not given.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, cast

from ...common.analysis.scores import score
from ...common.messages.messages import Tally
from ...common.settings.run_config import RunConfig
from ...common.storage.jsonl import Entry, read_lines
from ...common.trackers.libraries import Place
from ...common.trackers.trackers import Point, Trackers
from .store import Store

PROJECT = "fedgrpo"
FOLDER = "trackers"
"""In a run folder."""


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
        folder=store.folder / FOLDER,
        project=PROJECT,
        run=f"{store.folder.name}-{federation}",
        axis="round",
        settings={key: value for key, value in config.flat().items() if not key.startswith("output.")},
    )
    trackers, told = Trackers(config.output.tracker_uses, place), 0

    def catch_up() -> None:
        nonlocal told
        lines = read_lines(store.metrics)
        for line in lines[told:]:
            trackers.log(point_of(line))
        told = len(lines)

    try:
        catch_up()
        yield catch_up
    finally:
        trackers.close()


def point_of(line: Entry) -> Point:
    """A line of metrics.jsonl as figures by `area/name`; a client is a namespace, `clients/NAME/area/name`."""
    number = cast(int, line["round"])
    if line["kind"] == "round":
        return Point("rounds", number, _round_figures(cast(dict[str, Any], line)))
    return Point(str(line["decoding"]), number, _evaluation_figures(cast(dict[str, Any], line)))


def _round_figures(line: Mapping[str, Any]) -> dict[str, float]:
    own = {key: value for key, value in line.items() if key not in ("kind", "round", "clients", "refused")}
    figures = _named(own, "round") | {"round/refused": len(line["refused"]), "round/clients": len(line["clients"])}
    for name, told in line["clients"].items():
        figures |= {f"clients/{name}/{key}": value for key, value in _named(told, "update").items()}
    return figures


def _evaluation_figures(line: Mapping[str, Any]) -> dict[str, float]:
    area = f"evaluation/{line['decoding']}"
    figures = _named(asdict(score(Tally(**line["total"]))), area)
    for name, tally in line["classes"].items():
        figures[f"{area}/class/{name}/strict"] = score(Tally(**tally)).strict
    return figures


def _named(values: Mapping[str, float], area: str) -> dict[str, float]:
    """The values under names with an area: their own, or else the one given."""
    return {key if "/" in key else f"{area}/{key.replace('_', '-')}": float(value) for key, value in values.items()}
