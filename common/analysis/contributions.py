"""Contributions: a summary per client over the rounds, of its groups with and without signal, its weight and its
traffic.

A group teaches something only if its rewards differ. If all its completions are correct there is nothing left to learn;
if none is, there is nothing to reinforce. Neither is visible in loss, tokens or time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isnan, nan
from statistics import fmean
from typing import Any, Protocol

ALIKE = "same reward, but not all correct"
WORTH_SAYING = 0.015
LITTLE_SIGNAL = 0.1
"""Below this share of groups whose rewards differ, a client is reported as giving no learning signal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """Summary of one client's rounds. Shares are of its groups; nan if its policy withholds a figure."""

    organisation: str
    rounds: int
    """Rounds in which its update counted."""
    informative: float
    """Groups whose rewards differ."""
    all_right: float
    """Groups of equal rewards in which every completion is correct, by the strict reading."""
    all_wrong: float
    """Groups of equal rewards in which every completion is wrong."""
    share: float
    """Mean share of the rounds' updates."""
    clipped: int
    """Rounds in which its delta was clipped to the median."""
    bytes_up: int
    bytes_down: int

    def __str__(self) -> str:
        return in_words(self.organisation, self.informative, self.all_right, self.all_wrong)

    def as_json(self) -> dict[str, Any]:
        """Return the summary for JSON: None for unknown figures."""
        return {k: None if isinstance(v, float) and isnan(v) else v for k, v in asdict(self).items()}


class ClientPart(Protocol):
    """One client's part in a committed round, as metrics.jsonl holds it."""

    @property
    def share(self) -> float:
        """What its update counted."""
        ...

    @property
    def clipped(self) -> bool:
        """Whether its delta was scaled down."""
        ...

    @property
    def bytes_up(self) -> int:
        """Bytes it sent."""
        ...

    @property
    def bytes_down(self) -> int:
        """Bytes it was sent."""
        ...

    @property
    def reported(self) -> Mapping[str, float]:
        """Metrics it reported, by `area/name`."""
        ...


def contributions(rounds: Sequence[Mapping[str, ClientPart]]) -> list[Contribution]:
    """Return the summaries of all clients.

    Args:
        rounds: each round's clients, by organisation.
    """
    names = sorted({name for clients in rounds for name in clients})
    return [_contribution(name, [clients[name] for clients in rounds if name in clients]) for name in names]


def in_words(organisation: str, informative: float, all_right: float, all_wrong: float) -> str:
    """Describe the groups of a client in words.

    >>> in_words("client-3", 0.04, 0.96, 0.0)
    'client-3 gave no learning signal: of its groups, 96 % all right'
    >>> in_words("client-1", 0.4, 0.5, 0.1)
    'client-1: 40 % of its groups were informative, 50 % all right, 10 % all wrong'
    """
    if isnan(informative):
        return f"{organisation} does not report how many of its groups were informative"
    parts = [(all_right, "all right"), (all_wrong, "all wrong"), (1 - informative - all_right - all_wrong, ALIKE)]
    why = [f"{share:.0%} {what}".replace("%", " %") for share, what in parts if share >= WORTH_SAYING]
    if informative < LITTLE_SIGNAL:
        sentence = f"{organisation} gave no learning signal: " + ("of its groups, " if why else "")
        return sentence + (", ".join(why) or f"{informative:.0%} of its groups differ".replace("%", " %"))
    return ", ".join([f"{organisation}: {informative:.0%} of its groups were informative".replace("%", " %"), *why])


def signal_of(metrics: Mapping[str, float]) -> tuple[float, float, float]:
    """Return (informative, all right, all wrong) of one round's metrics."""
    zero = metrics.get("groups/zero-variance-share", nan)
    return 1 - zero, metrics.get("groups/all-right-share", nan), metrics.get("groups/all-wrong-share", nan)


def _contribution(name: str, parts: Sequence[ClientPart]) -> Contribution:
    signals = [signal_of(part.reported) for part in parts]
    informative, right, wrong = (fmean(column) for column in zip(*signals, strict=True))
    return Contribution(
        organisation=name,
        rounds=len(parts),
        informative=informative,
        all_right=right,
        all_wrong=wrong,
        share=fmean(part.share for part in parts),
        clipped=sum(part.clipped for part in parts),
        bytes_up=sum(part.bytes_up for part in parts),
        bytes_down=sum(part.bytes_down for part in parts),
    )
