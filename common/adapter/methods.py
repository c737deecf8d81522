"""The aggregation methods: which factors clients hold and train, which decides how the server can aggregate them.

How an adapter is parameterised and how it is aggregated are one decision: averaging A and B separately does not average
the products B A. Each method solves that in its own way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError
from ..plugins import Table

HOLDS = (("B",), ("A", "B"), ("A", "B", "W"), ("R",), ("v",))
"""What an adapter's vector can hold (see `AdapterSchema`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One way to parameterise and aggregate adapters."""

    holds: tuple[str, ...]
    """Factors in the global adapter's vector, which every task carries. The others are derived from the seed."""
    trains: tuple[tuple[str, ...], ...]
    """Factors that the clients train and send: the entries alternate by round."""
    mixed_ranks: bool
    """Whether clients may train adapters of smaller rank than the federation's."""
    linear: bool
    """Whether aggregation is the mean of the vectors. Server optimizers and rules by coordinate require it."""
    keeps_factors: bool = True
    """Whether the factors of the next round continue those of this one. Where aggregation rotates them or draws them
    anew, what compression took from a delta means nothing in the next round, and is not added to it."""
    source: str
    """The paper."""
    summary: str
    """One line for people: how the server aggregates."""
    aggregate: Callable[..., Any] | None = None
    """A plug-in's aggregation, where it is not linear: (current adapter, updates, whether `rank-weights` is `holders`)
    -> the next adapter. Those of the built-in methods are in `server.aggregation.methods`."""

    def __post_init__(self) -> None:
        if self.holds not in HOLDS:
            possible = "; ".join(", ".join(factors) for factors in HOLDS)
            raise ConfigError(f"A method's `holds` is {self.holds}, but must be one of: {possible}.")
        if not self.trains or not all(turn and set(turn) <= set(self.holds) - {"W"} for turn in self.trains):
            raise ConfigError(
                f"A method's `trains` is {self.trains}, but each turn must be some of {self.holds}, not W."
            )
        if self.mixed_ranks and {"R", "v"} & set(self.holds):
            raise ConfigError(
                f"A method's vector holds {self.holds}, which has no smaller ranks: set mixed_ranks=False."
            )

    def trains_in(self, round_number: int) -> tuple[str, ...]:
        """Return the factors trained in a round; rounds count from 1."""
        return self.trains[(round_number - 1) % len(self.trains)]


def _complaint(entry: object) -> str:
    if not isinstance(entry, Method):
        return "is not a fedgrpo.common.adapter.methods.Method"
    if entry.linear == (entry.aggregate is not None):
        return "must either be linear, which is averaged, or have `aggregate`"
    return ""


METHODS: Table[Method] = Table(
    "fedgrpo.aggregation_methods",
    {
        "ffa": Method(
            holds=("B",),
            trains=(("B",),),
            mixed_ranks=True,
            linear=True,
            source="FFA-LoRA, Sun et al. 2024, arXiv:2403.12313",
            summary="mean of B",
        ),
        "rolora": Method(
            holds=("A", "B"),
            trains=(("B",), ("A",)),
            mixed_ranks=False,
            linear=True,
            source="RoLoRA, Chen et al. 2025, arXiv:2502.01755",
            summary="mean of the factor trained, in turn",
        ),
        "svd": Method(
            holds=("A", "B"),
            trains=(("A", "B"),),
            mixed_ranks=True,
            linear=False,
            keeps_factors=False,
            source="FlexLoRA, Bai et al. 2024, arXiv:2402.11505",
            summary="best approximation, of the rank, of the mean product",
        ),
        "fedex": Method(
            holds=("A", "B", "W"),
            trains=(("A", "B"),),
            mixed_ranks=True,
            linear=False,
            source="FedEx-LoRA, Singhal et al. 2024, arXiv:2410.09432",
            summary="means of A and of B; the rest of the mean product into the base's weights",
        ),
        "flora": Method(
            holds=("A", "B", "W"),
            trains=(("A", "B"),),
            mixed_ranks=True,
            linear=False,
            keeps_factors=False,
            source="FLoRA, Wang et al. 2024, arXiv:2409.05976",
            summary="the mean product into the base's weights; A and B start again",
        ),
        "xs": Method(
            holds=("R",),
            trains=(("R",),),
            mixed_ranks=False,
            linear=True,
            source="LoRA-XS, Balazy et al. 2024, arXiv:2405.17604; Fed-SB, Singhal et al. 2025, arXiv:2502.15436",
            summary="mean of a core of rank x rank per layer",
        ),
        "tiny": Method(
            holds=("v",),
            trains=(("v",),),
            mixed_ranks=False,
            linear=True,
            source="TinyLoRA, 2026, arXiv:2602.04118",
            summary="mean of adapter.tiny-size numbers in all",
        ),
        "naive": Method(
            holds=("A", "B"),
            trains=(("A", "B"),),
            mixed_ranks=True,
            linear=True,
            source="FedIT, Zhang et al. 2023, arXiv:2305.05644",
            summary="mean of A and of B, which is not the mean of BA",
        ),
    },
    _complaint,
    reserved=("auto",),
)
"""The choices of `aggregation.method`, besides `auto`."""
