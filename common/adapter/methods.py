"""The aggregation methods: which factors clients hold and train, which decides how the server can aggregate them.

How an adapter is parameterised and how it is aggregated are one decision: averaging A and B separately does not average
the products B A. Each method solves that in its own way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


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
    source: str
    """The paper."""

    def trains_in(self, round_number: int) -> tuple[str, ...]:
        """Return the factors trained in a round; rounds count from 1."""
        return self.trains[(round_number - 1) % len(self.trains)]


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "ffa": Method(
            holds=("B",),
            trains=(("B",),),
            mixed_ranks=True,
            linear=True,
            source="FFA-LoRA, Sun et al. 2024, arXiv:2403.12313",
        ),
        "rolora": Method(
            holds=("A", "B"),
            trains=(("B",), ("A",)),
            mixed_ranks=False,
            linear=True,
            source="RoLoRA, Chen et al. 2025, arXiv:2502.01755",
        ),
        "svd": Method(
            holds=("A", "B"),
            trains=(("A", "B"),),
            mixed_ranks=True,
            linear=False,
            source="FlexLoRA, Bai et al. 2024, arXiv:2402.11505",
        ),
        "fedex": Method(
            holds=("A", "B", "W"),
            trains=(("A", "B"),),
            mixed_ranks=True,
            linear=False,
            source="FedEx-LoRA, Singhal et al. 2024, arXiv:2410.09432",
        ),
        "flora": Method(
            holds=("A", "B", "W"),
            trains=(("A", "B"),),
            mixed_ranks=True,
            linear=False,
            source="FLoRA, Wang et al. 2024, arXiv:2409.05976",
        ),
        "xs": Method(
            holds=("R",),
            trains=(("R",),),
            mixed_ranks=False,
            linear=True,
            source="LoRA-XS, Balazy et al. 2024, arXiv:2405.17604; Fed-SB, Singhal et al. 2025, arXiv:2502.15436",
        ),
        "tiny": Method(
            holds=("v",),
            trains=(("v",),),
            mixed_ranks=False,
            linear=True,
            source="TinyLoRA, 2026, arXiv:2602.04118",
        ),
        "naive": Method(
            holds=("A", "B"),
            trains=(("A", "B"),),
            mixed_ranks=True,
            linear=True,
            source="FedIT, Zhang et al. 2023, arXiv:2305.05644",
        ),
    }
)
