"""A part of the memory, the machine, and the constants of the formulas."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

ALWAYS, UPDATE, SAMPLING, EVALUATION = "always", "update", "sampling", "evaluation"
CUDA_CONTEXT = 600_000_000
"""Assumed, not measured: driver context, kernels and cuBLAS workspace of a process with PyTorch."""
TILE_TOKENS, TILE_WORDS = 4096, 32768
"""TRL 1.16 computes logits in tiles of at most this many tokens and words (trl/kernels/chunked_logprob.py)."""
TILES_ON_CPU = 7
"""float32 tiles that its backward pass holds at once without Triton, in addition to those of the logits; measured."""
FIRST_WITH_TILES = (1, 15)
WIDTH = {"float32": 4, "bfloat16": 2, "float16": 2}
OPTIMIZER_BYTES = {"adamw_torch_fused": 8, "adamw_torch": 8, "adamw_8bit": 2, "paged_adamw_8bit": 2}


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine of a learner."""

    kind: str
    """`cuda` or `cpu`."""
    bytes: int = 0
    """Memory of the GPU, or of the machine; 0 if unknown."""
    tiled_logits: bool = True
    """Whether TRL computes logits in tiles, as since 1.15, or all at once."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the memory."""

    name: str
    bytes: int
    when: str
    """ALWAYS, UPDATE, SAMPLING or EVALUATION."""
    formula: str


def peak(parts: list[Part]) -> int:
    """Return the bytes at the peak: the resident parts, and the largest of the temporary ones."""
    sums = {when: sum(part.bytes for part in parts if part.when == when) for when in (UPDATE, SAMPLING, EVALUATION)}
    return sum(part.bytes for part in parts if part.when == ALWAYS) + max(sums.values())


def has_tiled_logits(loader: str) -> bool:
    """Return whether this environment's TRL computes logits in tiles; without TRL, that of the loader's version set."""
    try:
        major, minor = version("trl").split(".")[:2]
    except PackageNotFoundError:
        return loader != "unsloth"
    return (int(major), int(minor)) >= FIRST_WITH_TILES
