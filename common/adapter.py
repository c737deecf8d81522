"""The adapter: a schema, and one flat float32 vector laid out by it.

Everything on the wire, in the accumulator and in a checkpoint is that one vector. Tensors exist only where PEFT wants
them (`peft_files.py`, the learner).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from .checks import at_least
from .errors import ConfigError
from .seeds import derived_seed

Vector = npt.NDArray[np.float32]
NORM_BLOCK = 8192
FACTORS = ("A", "B")
MAX_WIDTH = 10_000_000


@dataclass(frozen=True, slots=True)
class Module:
    """One adapted linear layer: its PEFT name and the width of what goes in and comes out."""

    name: str
    in_features: int
    out_features: int


@dataclass(frozen=True, kw_only=True)
class AdapterSchema:
    """Names, shapes and order of an adapter's tensors: all a server needs to know of a model.

    Per module, A has shape (rank, in_features) and B (out_features, rank); W + (alpha / rank) B A. `trains` says which
    factors are trained, and so are in the vector. A factor that is not is drawn from `seed` (`initial_tensor`).
    """

    modules: tuple[Module, ...]
    rank: int
    alpha: int
    trains: tuple[str, ...]
    seed: int

    def __post_init__(self) -> None:
        if not self.modules:
            raise ConfigError("No layer matches adapter.target-modules, so there is nothing to train.")
        at_least("adapter.rank", self.rank, 1, "an adapter of rank 0 has no parameters")
        at_least("adapter.alpha", self.alpha, 1, "the adapter is scaled by alpha / rank")
        if self.trains not in (("A", "B"), ("B",)):
            raise ConfigError(f"An adapter trains A and B, or B; not {self.trains}.")
        names = [module.name for module in self.modules]
        if names != sorted(set(names)):
            raise ConfigError("An adapter's modules must be unique and in alphabetical order.")

    @cached_property
    def size(self) -> int:
        """Number of trained parameters: the length of the vector."""
        return sum(math.prod(shape) for _, _, shape in self.layout())

    @cached_property
    def sha256(self) -> str:
        """Hash of the schema: two parties with the same hash mean the same vector."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def shape(self, module: Module, factor: str) -> tuple[int, int]:
        """Shape of one factor of one module."""
        return (self.rank, module.in_features) if factor == "A" else (module.out_features, self.rank)

    def layout(self) -> Iterator[tuple[Module, str, tuple[int, int]]]:
        """(module, factor, shape) in the order in which the vector holds them."""
        for module in self.modules:
            for factor in self.trains:
                yield module, factor, self.shape(module, factor)

    def to_json(self) -> str:
        """The schema as JSON, in one spelling only."""
        return json.dumps(
            {
                "modules": [[m.name, m.in_features, m.out_features] for m in self.modules],
                "rank": self.rank,
                "alpha": self.alpha,
                "trains": list(self.trains),
                "seed": self.seed,
            },
            sort_keys=True,
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str) -> AdapterSchema:
        """Read what `to_json` wrote.

        Raises:
            ValueError: the text is no such JSON.
            ConfigError: it describes no possible adapter.
        """
        try:
            raw = json.loads(text)
            modules = tuple(Module(str(name), int(i), int(o)) for name, i, o in raw["modules"])
            numbers = int(raw["rank"]), int(raw["alpha"]), int(raw["seed"])
            trains = tuple(str(factor) for factor in raw["trains"])
        except (KeyError, TypeError, OverflowError, RecursionError) as error:
            raise ValueError(f"not an adapter schema: {error}") from error
        if any(not 0 < width <= MAX_WIDTH for m in modules for width in (m.in_features, m.out_features)):
            raise ConfigError(f"An adapter's layers must have widths from 1 to {MAX_WIDTH}.")
        return cls(modules=modules, rank=numbers[0], alpha=numbers[1], trains=trains, seed=numbers[2])

    def initial_tensor(self, module: Module, factor: str) -> Vector:
        """A factor's value before any training: LoRA's own start, so the adapted model equals the base model.

        B is zero. A is uniform in +-1/sqrt(in_features) (Kaiming with a = sqrt 5, as PEFT draws it), from a generator
        seeded by the run's seed and the module's name. Rows are drawn in order, so the A of rank r is the first r rows
        of the A of rank R > r: clients of different rank share a subspace.
        """
        rows, columns = self.shape(module, factor)
        if factor == "B":
            return np.zeros((rows, columns), dtype=np.float32)
        generator = np.random.Generator(np.random.PCG64(derived_seed(self.seed, "lora-A", module.name)))
        bound = np.float32(1.0 / math.sqrt(module.in_features))
        return (generator.random((rows, columns), dtype=np.float32) * 2 - 1) * bound


@dataclass(frozen=True)
class Adapter:
    """A schema and the vector of its trained parameters (float32, shape (schema.size,)). Never written to."""

    schema: AdapterSchema
    vector: Vector

    def __post_init__(self) -> None:
        if self.vector.shape != (self.schema.size,) or self.vector.dtype != np.float32:
            raise ValueError(
                f"the schema wants float32 of shape ({self.schema.size},), got {self.vector.dtype} {self.vector.shape}"
            )
        self.vector.setflags(write=False)

    @classmethod
    def initial(cls, schema: AdapterSchema) -> Adapter:
        """The adapter before the first round: from names, shapes and seed alone."""
        return cls.from_tensors(schema, {(m, f): schema.initial_tensor(m, f) for m, f, _ in schema.layout()})

    @classmethod
    def from_tensors(cls, schema: AdapterSchema, tensors: Mapping[tuple[Module, str], Vector]) -> Adapter:
        """Lay out the trained tensors of `tensors` as one vector.

        Raises:
            ValueError: a tensor is missing or has another shape.
        """
        parts: list[Vector] = []
        for module, factor, shape in schema.layout():
            tensor = tensors.get((module, factor))
            if tensor is None or tensor.shape != shape:
                found = "is missing" if tensor is None else f"has shape {tensor.shape}"
                raise ValueError(f"lora_{factor} of {module.name} {found}, the schema wants {shape}")
            parts.append(np.ascontiguousarray(tensor, dtype=np.float32).reshape(-1))
        return cls(schema, np.concatenate(parts))

    def tensors(self) -> dict[tuple[Module, str], Vector]:
        """Every factor of every module, the frozen ones drawn from the seed."""
        found: dict[tuple[Module, str], Vector] = {}
        start = 0
        for module, factor, shape in self.schema.layout():
            stop = start + math.prod(shape)
            found[module, factor] = self.vector[start:stop].reshape(shape)
            start = stop
        for module in self.schema.modules:
            for factor in FACTORS:
                if factor not in self.schema.trains:
                    found[module, factor] = self.schema.initial_tensor(module, factor)
        return found

    def plus(self, delta: Vector | npt.NDArray[np.float64], scale: float = 1.0) -> Adapter:
        """This adapter moved by `scale * delta`, computed in float64 and rounded once."""
        moved = self.vector.astype(np.float64) + np.float64(scale) * delta.astype(np.float64)
        return replace(self, vector=moved.astype(np.float32))

    def minus(self, other: Adapter) -> Vector:
        """The delta that leads from `other` to this adapter."""
        if other.schema.sha256 != self.schema.sha256:
            raise ValueError("two adapters of different schemas have no difference")
        return self.vector - other.vector

    @cached_property
    def sha256(self) -> str:
        """Hash of schema and values (little-endian float32): equal hashes, equal adapters."""
        digest = hashlib.sha256(self.schema.sha256.encode())
        digest.update(self.vector.astype("<f4", copy=False).tobytes())
        return digest.hexdigest()


def l2_norm(vector: Vector) -> float:
    """Euclidean norm: blocks of 8,192 squares are summed in float32, the blocks in float64 (relative error < 1e-6).

    Not finite where the vector is not. Where squares overflow float32, it is taken in float64 throughout.
    """
    blocks = (vector[i : i + NORM_BLOCK] for i in range(0, vector.size, NORM_BLOCK))
    with np.errstate(over="ignore", invalid="ignore"):
        total = sum(float(np.dot(block, block)) for block in blocks)
    return math.sqrt(total) if math.isfinite(total) else float(np.linalg.norm(vector.astype(np.float64)))


def clip_norm(delta: Vector, limit: float) -> Vector:
    """Scale `delta` down to L2 norm `limit` where it is longer."""
    norm = l2_norm(delta)
    return delta if norm <= limit else (delta.astype(np.float64) * (limit / norm)).astype(np.float32)
