"""The clients' products B_k A_k as sums of factors: the target of the aggregation, and the error of an aggregation
against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ...common.adapter.adapter import Adapter
from ...common.adapter.schema import AdapterSchema, Module, Vector, fit
from .lowrank import Product

Wide = npt.NDArray[np.float64]
CANCELS = 1e-12


class StoredVector(Protocol):
    """A float32 vector on the disk, of which parts are read."""

    @property
    def size(self) -> int:
        """Length of the vector."""
        ...

    def __getitem__(self, part: slice, /) -> Vector:
        """Return a slice of the vector."""
        ...

    def read_into(self, start: int, out: Vector) -> None:
        """Fill `out`, little-endian float32, with the numbers from `start` on."""
        ...


Slices = Vector | StoredVector
"""A float32 vector that is read by slices."""


class BlockReader:
    """Reads the same coordinates of several vectors as float64, always into the same memory.

    A large array allocated for each block can cost more than reading it: depending on the state of the allocator, its
    pages go back to the system and are zeroed again each time (docs/log.md).
    """

    def __init__(self, vectors: int, block: int) -> None:
        """Allocate memory for so many vectors and coordinates at a time."""
        self._wide = np.empty(vectors * block)
        self._narrow = np.empty(block, dtype="<f4")

    def read(self, vectors: Sequence[Slices], start: int, stop: int) -> Wide:
        """Return the coordinates from `start` to `stop`, shape (K, stop - start); overwritten by the next call."""
        size = stop - start
        rows = self._wide[: len(vectors) * size].reshape(len(vectors), size)
        for row, vector in zip(rows, vectors, strict=True):
            if isinstance(vector, np.ndarray):
                row[:] = vector[start:stop]
            else:
                vector.read_into(start, self._narrow[:size])
                row[:] = self._narrow[:size]
        return rows


@dataclass(frozen=True, slots=True)
class ClientUpdate:
    """One client's delta and what it counts."""

    share: float
    """How much it counts: the shares of a round sum to 1."""
    factor: float
    """Scales the delta before it counts: a clip of its length, a normalisation by its steps."""
    schema: AdapterSchema
    """The client's: of the federation's rank, or a smaller one."""
    delta: Slices
    """Laid out by the client's schema: a vector, or one on the disk, of which a part is read at a time."""

    def part(self, module: Module, factor: str) -> Vector:
        """The delta of one factor of one layer."""
        start, end, shape = self.schema.places[module.name, factor]
        return self.delta[start:end].reshape(shape)

    def fitted(self, schema: AdapterSchema) -> Vector:
        """All of the delta, padded to the rank of another schema."""
        whole = self.delta[: self.schema.size]
        return whole if self.schema.rank == schema.rank else fit(whole, self.schema, schema)

    @property
    def coefficient(self) -> float:
        """Factor on the delta in the sum."""
        return self.share * self.factor


def component_weights(schema: AdapterSchema, given: Sequence[ClientUpdate], holders: bool) -> Wide:
    """Return w_k of each component, shape (K, rank): zero beyond a client's rank."""
    weights = np.zeros((len(given), schema.rank))
    for row, c in zip(weights, given, strict=True):
        row[: c.schema.rank] = c.coefficient
    if holders:
        held = weights.sum(axis=0)
        whole = sum(c.coefficient for c in given)
        weights *= np.divide(whole, held, out=np.ones_like(held), where=held > 0)
    return weights


@dataclass(frozen=True)
class Products:
    """The clients' products, layer by layer, without the scale alpha / rank that all share."""

    current: Adapter
    given: Sequence[ClientUpdate]
    weights: Wide

    def move(self, module: Module) -> Product:
        """Return sum_k w_k (B_k A_k - B A) of one layer. If only one factor was trained, the other is not repeated."""
        a, b = (factor.astype(np.float64) for factor in self.current.lora(module))
        trained = self._trained
        if "A" not in trained:  # sum_k w_k dB_k, times A
            return Product(self._sum(module, "B", b.shape), a)
        if "B" not in trained:
            return Product(b, self._sum(module, "A", a.shape))
        return self._stacked(module, -self.weights.sum(axis=0))

    def total(self, module: Module) -> Product:
        """Return B A + sum_k w_k (B_k A_k - B A) of one layer, without the components that cancel."""
        kept = 1 - self.weights.sum(axis=0)
        kept[np.abs(kept) < CANCELS] = 0.0
        stacked = self._stacked(module, kept)
        used = np.flatnonzero(stacked.left.any(axis=0))
        if not len(used):  # nothing has moved yet
            used = np.arange(self.current.schema.rank)
        return Product(stacked.left[:, used], stacked.right[used])

    def error(self, following: Adapter) -> float:
        """Return the distance of an aggregation from its target, relative to the length of the target's move.

            || dW - sum_k w_k dW_k || / || sum_k w_k dW_k ||,   over all layers

        0 if no client moved.
        """
        scale, wrong, whole = self.current.schema.scale, 0.0, 0.0
        for module in self.current.schema.modules:
            wanted = self.move(module)
            before, after = (_product(adapter, module) for adapter in (self.current, following))
            if "W" in self.current.schema.holds:
                key = (module.name, "W")
                moved = (after.dense() - before.dense()) * scale
                moved += following.parts()[key].astype(np.float64) - self.current.parts()[key]
                wrong += float(np.linalg.norm(moved - scale * wanted.dense())) ** 2
            else:
                wrong += (scale * after.plus(before, -1.0).plus(wanted, -1.0).norm) ** 2
            whole += (scale * wanted.norm) ** 2
        return (wrong / whole) ** 0.5 if whole else 0.0

    def _stacked(self, module: Module, kept: Wide) -> Product:
        """Return every client's product beside `kept` of each component of the current one."""
        a, b = (factor.astype(np.float64) for factor in self.current.lora(module))
        lefts, rights = [b * kept], [a]
        for c, weights in zip(self.given, self.weights, strict=True):
            rank = c.schema.rank
            lefts.append((b[:, :rank] + c.part(module, "B")) * weights[:rank])
            rights.append(a[:rank] + c.part(module, "A"))
        return Product(np.concatenate(lefts, axis=1), np.concatenate(rights))

    @cached_property
    def _trained(self) -> set[str]:
        """Which of A and B any client moved; if the vector holds neither, B is computed and moved."""
        holds = set(self.current.schema.holds)
        if not holds & {"A", "B"}:
            return {"B"}
        moved = {
            factor
            for factor in ("A", "B")
            if factor in holds and any(c.part(m, factor).any() for c in self.given for m in self.current.schema.modules)
        }
        return moved or {"B"}

    def _sum(self, module: Module, factor: str, shape: tuple[int, ...]) -> Wide:
        total = np.zeros(shape)
        for c, weights in zip(self.given, self.weights, strict=True):
            rank = c.schema.rank
            if factor == "A":
                total[:rank] += weights[:rank, None] * c.part(module, "A")
            elif factor in c.schema.holds:
                total[:, :rank] += c.part(module, "B") * weights[:rank]
            else:  # B is linear in what is trained: B of the delta is the delta of B
                total += Adapter(c.schema, np.array(c.delta[: c.schema.size])).lora(module)[1] * weights
        return total


def _product(adapter: Adapter, module: Module) -> Product:
    a, b = adapter.lora(module)
    return Product(b.astype(np.float64), a.astype(np.float64))
