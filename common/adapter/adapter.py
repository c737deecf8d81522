"""The adapter: a schema, and one flat float32 vector laid out by it.

Messages, aggregation and checkpoints hold that one vector. Tensors exist only where PEFT needs them (`peft_files.py`,
the learner).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from .schema import SHARED, AdapterSchema, Key, Module, Vector, fit, split

NORM_BLOCK = 8192


@dataclass(frozen=True)
class Adapter:
    """A schema and the vector of its parameters (float32, shape (schema.size,)). Immutable."""

    schema: AdapterSchema
    vector: Vector

    def __post_init__(self) -> None:
        if self.vector.shape != (self.schema.size,) or self.vector.dtype != np.float32:
            raise ValueError(
                f"the schema needs float32 of shape ({self.schema.size},), got {self.vector.dtype} {self.vector.shape}"
            )
        self.vector.setflags(write=False)

    @classmethod
    def initial(cls, schema: AdapterSchema) -> Adapter:
        """Return the adapter before the first round, from names, shapes and seed: it does not change the model."""
        modules = {module.name: module for module in schema.modules}
        return cls.from_parts(
            schema,
            {
                (name, factor): schema.drawn(modules[name], "A") if factor == "A" else np.zeros(shape, np.float32)
                for (name, factor), shape in schema.layout()
            },
        )

    @classmethod
    def from_parts(cls, schema: AdapterSchema, parts: Mapping[Key, npt.NDArray[np.floating]]) -> Adapter:
        """Concatenate the factors that the schema holds into one vector.

        Raises:
            ValueError: a factor is missing or has another shape.
        """
        flat: list[Vector] = []
        for (name, factor), shape in schema.layout():
            part = parts.get((name, factor))
            if part is None or part.shape != shape:
                problem = "is missing" if part is None else f"has shape {part.shape}"
                raise ValueError(f"{factor} of {name} {problem}, the schema needs {shape}")
            flat.append(np.ascontiguousarray(part, dtype=np.float32).reshape(-1))
        return cls(schema, np.concatenate(flat))

    def parts(self) -> dict[Key, Vector]:
        """Return the factors in the vector, as views of it."""
        return split(self.schema, self.vector)

    def lora(self, module: Module) -> tuple[Vector, Vector]:
        """Return (A, B) of a layer, computed if the vector does not hold them."""
        schema, parts = self.schema, self.parts()
        a = parts[module.name, "A"] if "A" in schema.holds else schema.drawn(module, "A")
        if "B" in schema.holds:
            return a, parts[module.name, "B"]
        if "R" in schema.holds:
            core = parts[module.name, "R"]
        else:
            core = np.tensordot(parts[SHARED, "v"], schema.drawn(module, "Q"), axes=1).astype(np.float32)
        return a, schema.drawn(module, "P") @ core

    def change(self, module: Module) -> npt.NDArray[np.float64]:
        """Return what the adapter adds to a layer's weight, s B A + W: float64, shape (out_features, in_features)."""
        a, b = self.lora(module)
        product = self.schema.scale * (b.astype(np.float64) @ a.astype(np.float64))
        return product + self.parts()[module.name, "W"] if "W" in self.schema.holds else product

    def fitted(self, schema: AdapterSchema) -> Adapter:
        """Return this adapter at another rank: truncated to its first components, or padded with zeros."""
        if schema.sha256 == self.schema.sha256:
            return self
        return Adapter(schema, fit(self.vector, self.schema, schema))

    def plus(self, delta: npt.NDArray[np.floating], scale: float = 1.0) -> Adapter:
        """Return this adapter moved by `scale * delta`, computed in float64 and rounded once."""
        vector = self.vector.astype(np.float64) + np.float64(scale) * delta.astype(np.float64)
        return replace(self, vector=vector.astype(np.float32))

    def minus(self, other: Adapter) -> Vector:
        """Return the delta from `other` to this adapter."""
        if other.schema.sha256 != self.schema.sha256:
            raise ValueError("adapters of different schemas cannot be subtracted")
        return self.vector - other.vector

    @cached_property
    def sha256(self) -> str:
        """Hash of schema and values (little-endian float32): equal hashes, equal adapters."""
        digest = hashlib.sha256(self.schema.sha256.encode())
        digest.update(self.vector.astype("<f4", copy=False).tobytes())
        return digest.hexdigest()


def l2_norm(vector: Vector) -> float:
    """Return the Euclidean norm: blocks of 8,192 squares are summed in float32, the blocks in float64 (relative error <
    1e-6).

    Not finite if the vector is not. If squares overflow float32, everything is computed in float64.
    """
    blocks = (vector[i : i + NORM_BLOCK] for i in range(0, vector.size, NORM_BLOCK))
    with np.errstate(over="ignore", invalid="ignore"):
        total = sum(float(np.dot(block, block)) for block in blocks)
    return math.sqrt(total) if math.isfinite(total) else float(np.linalg.norm(vector.astype(np.float64)))


def clip_norm(delta: Vector, limit: float) -> Vector:
    """Return `delta`, scaled down to L2 norm `limit` if it is longer."""
    norm = l2_norm(delta)
    return delta if norm <= limit else (delta.astype(np.float64) * (limit / norm)).astype(np.float32)
