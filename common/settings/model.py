"""The settings of the base model and of its adapter."""

from __future__ import annotations

from dataclasses import dataclass

from ..bounds import at_least, between, one_of
from ..errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The base model, which every client has; it is never sent over the network."""

    name: str = "builtin"
    """`builtin` or `builtin-split` (included), `smollm2-135m` (fetched), a Hub name, a folder, or a .gguf file."""
    revision: str = ""
    """Revision on the Hub; empty is the default branch."""
    dtype: str = "float32"
    """Type of the base model's weights. `auto`: bfloat16 for a large model where the hardware multiplies it, else
    float32; each client decides for its own machine. The adapter is always float32."""

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ConfigError("model.name is empty. Set it to a Hub name, a local folder, or builtin.")
        one_of("model.dtype", self.dtype, ("float32", "bfloat16", "float16", "auto"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """The LoRA adapter (Hu et al. 2021, arXiv:2106.09685): W + (alpha / rank) B A."""

    rank: int = 16
    alpha: int = 32
    target_modules: str = "all-linear"
    """`all-linear`, or names separated by commas: `q_proj,v_proj`."""
    tiny_size: int = 13
    """Number of trained parameters in total, with aggregation.method = tiny."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(
                f"adapter.rank is {self.rank}, but an adapter of rank 0 or less has no parameters to train. "
                "Set it to 1 or more (8 to 64 are usual)."
            )
        at_least("adapter.alpha", self.alpha, 1, "the adapter is scaled by alpha / rank, and 0 would turn it off")
        between("adapter.tiny-size", self.tiny_size, 1, 1024, "each number has a frozen matrix per layer")
        if not self.target_modules.strip(" ,"):
            raise ConfigError("adapter.target-modules is empty. Name the layers to adapt, or all-linear.")
