"""The schema of an adapter: names, shapes and order of the factors in its vector."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt

from ..bounds import at_least
from ..errors import ConfigError
from ..seeds import derived_seed
from .methods import HOLDS

Vector = npt.NDArray[np.float32]
Float = TypeVar("Float", npt.NDArray[np.float32], npt.NDArray[np.float64])
Key = tuple[str, str]
"""(layer name or SHARED, factor)."""
SHARED = "*"
MAX_WIDTH = 10_000_000


@dataclass(frozen=True, slots=True)
class Module:
    """One adapted linear layer: its PEFT name, and its input and output width."""

    name: str
    in_features: int
    out_features: int


@dataclass(frozen=True, kw_only=True)
class AdapterSchema:
    """Names, shapes and order of an adapter's tensors: everything a server needs to know about a model.

    With s = alpha / rank, a layer's weight is

        W0 + W + s B A          A (rank, in_features), B (out_features, rank), W (out_features, in_features)

    `holds` says which of these are in the vector. If A is not, it is drawn from the seed; if W is not, it is zero. If
    the vector holds a core R (rank, rank) per layer, or one v (tiny_size,) for all layers, B is computed:

        B = P R                 P (out_features, rank) drawn from the seed
        R = sum_i v_i Q_i       Q_i (rank, rank) drawn from the seed and the layer's name
    """

    modules: tuple[Module, ...]
    rank: int
    alpha: int
    holds: tuple[str, ...]
    seed: int
    tiny_size: int = 0
    """Length of v, if the vector holds it."""

    def __post_init__(self) -> None:
        if not self.modules:
            raise ConfigError("No layer matches adapter.target-modules, so there is nothing to train.")
        at_least("adapter.rank", self.rank, 1, "an adapter of rank 0 has no parameters")
        at_least("adapter.alpha", self.alpha, 1, "the adapter is scaled by alpha / rank")
        if self.holds not in HOLDS:
            raise ConfigError(
                f"An adapter's vector holds {self.holds}, which are not the factors of any aggregation.method."
            )
        if (self.tiny_size > 0) != ("v" in self.holds):
            raise ConfigError(f"tiny_size is {self.tiny_size}, but the vector holds {self.holds}: only v needs a size.")
        names = [module.name for module in self.modules]
        if names != sorted(set(names)):
            raise ConfigError("An adapter's modules must be unique and in alphabetical order.")

    @property
    def scale(self) -> float:
        """The factor s on B A."""
        return self.alpha / self.rank

    @cached_property
    def size(self) -> int:
        """Number of parameters in the vector: its length."""
        return self.size_of(self.holds)

    def size_of(self, factors: tuple[str, ...]) -> int:
        """Return the number of parameters of some of the factors."""
        return sum(math.prod(shape) for (_, factor), shape in self.layout() if factor in factors)

    @cached_property
    def sha256(self) -> str:
        """Hash of the schema: a server and a client with the same hash mean the same vector."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def layout(self) -> Iterator[tuple[Key, tuple[int, ...]]]:
        """Yield ((layer, factor), shape) in the order of the vector."""
        if "v" in self.holds:
            yield (SHARED, "v"), (self.tiny_size,)
            return
        for module in self.modules:
            for factor in self.holds:
                yield (module.name, factor), self.shape(module, factor)

    @cached_property
    def places(self) -> dict[Key, tuple[int, int, tuple[int, ...]]]:
        """(start, end, shape) of every factor in the vector."""
        places: dict[Key, tuple[int, int, tuple[int, ...]]] = {}
        start = 0
        for key, shape in self.layout():
            places[key] = (start, start + math.prod(shape), shape)
            start += math.prod(shape)
        return places

    def shape(self, module: Module, factor: str) -> tuple[int, int]:
        """Return the shape of one factor of one layer."""
        match factor:
            case "A":
                return self.rank, module.in_features
            case "B":
                return module.out_features, self.rank
            case "W":
                return module.out_features, module.in_features
            case "R":
                return self.rank, self.rank
            case _:
                raise ValueError(f"a layer has no factor {factor!r}")

    def at_rank(self, rank: int) -> AdapterSchema:
        """Return the same adapter with a smaller rank and the same scale: its factors are the first `rank` rows and
        columns.

        Raises:
            ConfigError: the rank is larger, or the scale cannot be kept.
        """
        if rank > self.rank or self.alpha * rank % self.rank:
            raise ConfigError(
                f"A client's rank is {rank}, the federation's {self.rank} with alpha {self.alpha}. It must not be "
                f"larger, and alpha x {rank} / {self.rank} must be whole, so that alpha / rank is the same."
            )
        return replace(self, rank=rank, alpha=self.alpha * rank // self.rank)

    def to_json(self) -> str:
        """Return the schema as canonical JSON."""
        return json.dumps(
            {
                "modules": [[m.name, m.in_features, m.out_features] for m in self.modules],
                "rank": self.rank,
                "alpha": self.alpha,
                "holds": list(self.holds),
                "seed": self.seed,
                "tiny_size": self.tiny_size,
            },
            sort_keys=True,
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str) -> AdapterSchema:
        """Read what `to_json` wrote.

        Raises:
            ValueError: the text is not such JSON.
            ConfigError: the adapter it describes is not possible.
        """
        try:
            raw = json.loads(text)
            modules = tuple(Module(str(name), int(i), int(o)) for name, i, o in raw["modules"])
            numbers = {key: int(raw[key]) for key in ("rank", "alpha", "seed", "tiny_size")}
            holds = tuple(str(factor) for factor in raw["holds"])
        except (KeyError, TypeError, OverflowError, RecursionError) as error:
            raise ValueError(f"not an adapter schema: {error}") from error
        if any(not 0 < width <= MAX_WIDTH for m in modules for width in (m.in_features, m.out_features)):
            raise ConfigError(f"An adapter's layers must have widths from 1 to {MAX_WIDTH}.")
        return cls(modules=modules, holds=holds, **numbers)

    def drawn(self, module: Module, factor: str) -> Vector:
        """Return a frozen factor, uniform, from a generator seeded by the run's seed and the layer's name.

        A is in +-1/sqrt(in_features) (Kaiming with a = sqrt 5, as PEFT draws it). Rows are drawn in order, so the A of
        rank r is the first r rows of the A of rank R > r: clients of different rank share a subspace. P has variance
        1/rank and each Q_i variance 1/tiny_size, so that a step of R or v moves a layer about as far as one of B.
        """
        shape, bound = {
            "A": ((self.rank, module.in_features), 1.0 / math.sqrt(module.in_features)),
            "P": ((module.out_features, self.rank), math.sqrt(3.0 / self.rank)),
            "Q": ((self.tiny_size, self.rank, self.rank), math.sqrt(3.0 / max(1, self.tiny_size))),
        }[factor]
        generator = np.random.Generator(np.random.PCG64(derived_seed(self.seed, f"lora-{factor}", module.name)))
        return (generator.random(shape, dtype=np.float32) * 2 - 1) * np.float32(bound)


def split(schema: AdapterSchema, vector: Float) -> dict[Key, Float]:
    """Return a vector's factors, as views of it."""
    return {key: vector[start:end].reshape(shape) for key, (start, end, shape) in schema.places.items()}


def fit(vector: Float, source: AdapterSchema, target: AdapterSchema) -> Float:
    """Return a vector laid out for another rank: factors are cut to the first components, or padded with zeros."""
    fitted = cast(Float, np.zeros(target.size, dtype=vector.dtype))
    old, new = split(source, vector), split(target, fitted)
    for key, part in new.items():
        shared = tuple(slice(0, min(a, b)) for a, b in zip(part.shape, old[key].shape, strict=True))
        part[shared] = old[key][shared]
    return fitted


def trained_part(schema: AdapterSchema, vector: Vector, factors: tuple[str, ...]) -> Vector:
    """Return the part of a vector that is sent: the factors that were trained, in the vector's order."""
    if factors == schema.holds:
        return vector
    return np.concatenate([p.reshape(-1) for (_, factor), p in split(schema, vector).items() if factor in factors])


def whole_vector(schema: AdapterSchema, part: Vector, factors: tuple[str, ...]) -> Vector:
    """Return the vector of which `trained_part` was sent, zero elsewhere."""
    if factors == schema.holds:
        return part
    vector, start = np.zeros(schema.size, dtype=np.float32), 0
    for (_, factor), piece in split(schema, vector).items():
        if factor in factors:
            piece[...] = part[start : start + piece.size].reshape(piece.shape)
            start += piece.size
    return vector
