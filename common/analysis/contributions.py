"""The ledger: what each client learned from, weighed and sent, over the rounds, in figures and in words.

A group teaches something only if its rewards differ. Where all of its completions are right there is nothing left to
learn, where none is there is nothing to go by; both look like work on every other gauge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isnan, nan
from statistics import fmean
from typing import Any, Protocol

ALIKE = "rewarded alike though not alike right"
WORTH_SAYING = 0.015
LITTLE_SIGNAL = 0.1
"""Below this share of groups whose rewards differ, a client gave no learning signal worth the name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """One client's rounds, summed up. Shares are of its groups; nan where its policy keeps a figure back."""

    organisation: str
    rounds: int
    """In which its update counted."""
    informative: float
    """Groups whose rewards differ."""
    all_right: float
    """Groups of equal rewards in which every completion is right, by the strict reading."""
    all_wrong: float
    """... and in which none is."""
    share: float
    """Mean share of the rounds' updates."""
    clipped: int
    """Rounds in which its delta was clipped to the median."""
    bytes_up: int
    bytes_down: int

    def __str__(self) -> str:
        return in_words(self.organisation, self.informative, self.all_right, self.all_wrong)

    def as_json(self) -> dict[str, Any]:
        """The account as JSON holds it: None for what is not known."""
        return {k: None if isinstance(v, float) and isnan(v) else v for k, v in asdict(self).items()}


class Part(Protocol):
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


def contributions(rounds: Sequence[Mapping[str, Part]]) -> list[Contribution]:
    """The accounts of all clients.

    Args:
        rounds: each round's clients, by organisation.
    """
    names = sorted({name for clients in rounds for name in clients})
    return [_contribution(name, [clients[name] for clients in rounds if name in clients]) for name in names]


def in_words(organisation: str, informative: float, all_right: float, all_wrong: float) -> str:
    """What a client's groups taught.

    >>> in_words("client-3", 0.04, 0.96, 0.0)
    'client-3 gave no learning signal: of its groups, 96 % all right'
    >>> in_words("client-1", 0.4, 0.5, 0.1)
    'client-1: 40 % of its groups were informative, 50 % all right, 10 % all wrong'
    """
    if isnan(informative):
        return f"{organisation} does not tell how many of its groups were informative"
    parts = [(all_right, "all right"), (all_wrong, "all wrong"), (1 - informative - all_right - all_wrong, ALIKE)]
    why = [f"{share:.0%} {what}".replace("%", " %") for share, what in parts if share >= WORTH_SAYING]
    if informative < LITTLE_SIGNAL:
        told = f"{organisation} gave no learning signal: " + ("of its groups, " if why else "")
        return told + (", ".join(why) or f"{informative:.0%} of its groups differ".replace("%", " %"))
    return ", ".join([f"{organisation}: {informative:.0%} of its groups were informative".replace("%", " %"), *why])


def signal_of(metrics: Mapping[str, float]) -> tuple[float, float, float]:
    """(informative, all right, all wrong) of one round's metrics."""
    zero = metrics.get("groups/zero-variance-share", nan)
    return 1 - zero, metrics.get("groups/all-right-share", nan), metrics.get("groups/all-wrong-share", nan)


def _contribution(name: str, mine: Sequence[Part]) -> Contribution:
    signals = [signal_of(part.reported) for part in mine]
    informative, right, wrong = (fmean(column) for column in zip(*signals, strict=True))
    return Contribution(
        organisation=name,
        rounds=len(mine),
        informative=informative,
        all_right=right,
        all_wrong=wrong,
        share=fmean(part.share for part in mine),
        clipped=sum(part.clipped for part in mine),
        bytes_up=sum(part.bytes_up for part in mine),
        bytes_down=sum(part.bytes_down for part in mine),
    )
