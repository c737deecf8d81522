"""PEFT's file format, read and written with numpy: `PeftModel.from_pretrained` and vLLM can open the files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from ..errors import ConfigError
from ..storage.atomic import write_atomic
from .adapter import Adapter
from .schema import AdapterSchema, Module, Vector

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
SCHEMA = "adapter_schema.json"
VECTOR = "adapter_vector.safetensors"
BASE = "base_model"
"""Folder in an export of an adapter for a built-in model: that model, which no Hub has."""
CLOSE = 1e-4
"""Tolerance of computed factors against the file, relative to the largest: machines round differently."""
RANK_TOLERANCE = 1e-6


def write_peft(adapter: Adapter, folder: Path, base_model: str) -> None:
    """Write an adapter as a PEFT folder, with the schema that describes its vector.

    PEFT knows A and B only. Other factors of the vector are converted into them, and the vector itself is written to a
    second file; a residual W becomes further rows of A and columns of B, as many as its rank.

    Args:
        base_model: the name by which PEFT loads the base model; not a path of this machine.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors, rank, alpha = _peft_tensors(adapter)
    write_atomic(folder / WEIGHTS, safetensors.numpy.save(dict(sorted(tensors.items())), metadata={"format": "pt"}))
    write_atomic(folder / CONFIG, json.dumps(_peft_config(adapter.schema, rank, alpha, base_model), indent=2).encode())
    write_atomic(folder / SCHEMA, adapter.schema.to_json().encode())
    if not _is_plain(adapter.schema):
        write_atomic(folder / VECTOR, safetensors.numpy.save({"vector": adapter.vector}))


def read_peft(folder: Path) -> Adapter:
    """Read an adapter that `write_peft` wrote.

    Raises:
        ConfigError: the folder is not such an adapter, a file is damaged, or a frozen factor differs from the one that
            its seed generates.
    """
    try:
        schema = AdapterSchema.from_json((folder / SCHEMA).read_text(encoding="utf-8"))
        stored: dict[str, Vector] = safetensors.numpy.load_file(folder / WEIGHTS)  # pyright: ignore[reportUnknownMemberType]
        if _is_plain(schema):
            parts = {(m.name, f): stored.get(_key(m, f)) for m in schema.modules for f in ("A", "B")}
            adapter = Adapter.from_parts(schema, {k: v for k, v in parts.items() if v is not None})
        else:
            vector_file: dict[str, Vector] = safetensors.numpy.load_file(folder / VECTOR)  # pyright: ignore[reportUnknownMemberType]
            adapter = Adapter(schema, vector_file["vector"])
    except OSError as error:
        raise ConfigError(
            f"{folder} is not an adapter folder of fedgrpo: {error.strerror} ({error.filename})."
        ) from error
    except (ValueError, KeyError, safetensors.SafetensorError) as error:
        raise ConfigError(f"The adapter in {folder} is damaged: {error}.") from error
    expected, _, _ = _peft_tensors(adapter)
    tolerance = 0.0 if _is_plain(schema) else CLOSE
    for name, tensor in expected.items():
        actual = stored.get(name)
        if actual is None or actual.shape != tensor.shape or _distance(actual, tensor) > tolerance:
            raise ConfigError(f"The adapter in {folder} is damaged: {name} is not what seed and vector give.")
    return adapter


def _peft_tensors(adapter: Adapter) -> tuple[dict[str, Vector], int, int]:
    """Return (tensors by PEFT's names, their rank, alpha)."""
    schema = adapter.schema
    factors = {module: adapter.lora(module) for module in schema.modules}
    if "W" not in schema.holds:
        return _named(factors), schema.rank, schema.alpha
    parts = adapter.parts()
    residuals = {module: _factored(parts[module.name, "W"]) for module in schema.modules}
    extra = max(left.shape[1] for left, _ in residuals.values())
    scale, rank = np.float32(schema.scale), schema.rank + extra
    for module, (a, b) in factors.items():
        left, right = residuals[module]
        spare = extra - left.shape[1]
        factors[module] = (
            np.concatenate([a, right, np.zeros((spare, a.shape[1]), np.float32)]),
            np.concatenate([b * scale, left, np.zeros((b.shape[0], spare), np.float32)], axis=1),
        )
    return _named(factors), rank, rank  # alpha = rank: the scale is in B


def _factored(dense: Vector) -> tuple[Vector, Vector]:
    """Return (left, right) with left @ right = dense, of the smallest rank that float32 can distinguish."""
    left, values, right = np.linalg.svd(dense.astype(np.float64), full_matrices=False)
    rank = int((values > RANK_TOLERANCE * max(values[0], 1e-30)).sum())
    return (left[:, :rank] * values[:rank]).astype(np.float32), right[:rank].astype(np.float32)


def _named(factors: dict[Module, tuple[Vector, Vector]]) -> dict[str, Vector]:
    return {
        _key(module, name): np.ascontiguousarray(value)
        for module, pair in factors.items()
        for name, value in zip("AB", pair, strict=True)
    }


def _distance(actual: Vector, expected: Vector) -> float:
    """Return the largest difference, relative to the largest value; infinite if one is not finite."""
    difference = float(np.abs(actual - expected).max(initial=0.0))
    if difference == 0.0:
        return 0.0
    ratio = difference / max(float(np.abs(expected).max()), 1e-30)
    return ratio if np.isfinite(ratio) else np.inf


def _is_plain(schema: AdapterSchema) -> bool:
    """Return whether PEFT's own A and B hold the whole vector."""
    return set(schema.holds) <= {"A", "B"}


def _key(module: Module, factor: str) -> str:
    return f"base_model.model.{module.name}.lora_{factor}.weight"


def _peft_config(schema: AdapterSchema, rank: int, alpha: int, base_model: str) -> dict[str, object]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": [module.name for module in schema.modules],
        "inference_mode": True,
    }
