"""The adapter as a PEFT folder. No torch: an operator's server does not have it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from ...client.learner.models.model_files import built_in_model
from ...common.adapter.adapter import Adapter
from ...common.adapter.peft_files import BASE, CLOSE, CONFIG, SCHEMA, VECTOR, WEIGHTS, write_peft
from ...common.errors import RunError
from ...common.storage.atomic import write_atomic
from .source import BaseModel

LARGEST_VLLM_RANK = 512


def write_adapter(adapter: Adapter, base: BaseModel, folder: Path) -> tuple[float, int, list[str]]:
    """Write the adapter for PEFT, read it back, and compare its effect on every layer.

    The files from which fedgrpo reads it again (schema, vector) are included, except for a vector with a residual on
    whole
    weight matrices: it would be as large as the model, and its product is in the factors.

    Returns:
        (the largest difference of a layer's change of weights, relative to the largest of that layer; the rank
        as written; warnings)

    Raises:
        RunError: the file's effect on the model differs from the adapter's.
    """
    write_peft(adapter, folder, base.public)
    path = folder / CONFIG
    described = json.loads(path.read_text(encoding="utf-8"))
    if base.revision:
        described["revision"] = base.revision
        write_atomic(path, json.dumps(described, indent=2).encode())
    if "W" in adapter.schema.holds:
        (folder / SCHEMA).unlink()
        (folder / VECTOR).unlink()
    difference = _difference(adapter, folder, described)
    if not difference <= CLOSE:
        raise RunError(f"The PEFT folder changes a layer differently from the adapter, by {difference:.1e} (relative).")
    return difference, described["r"], _warnings(described["r"], adapter.schema.rank)


def write_base(base: BaseModel, folder: Path, final: Path | None) -> None:
    """Write a built-in base model beside its adapter, and have PEFT look for it there and not on the Hub.

    Args:
        folder: the export while it is written.
        final: where it will be; None where it is published, since a path of this machine says nothing to others.
    """
    model = built_in_model(base.public)
    if model is None:
        return
    shutil.copytree(model, folder / BASE, ignore=shutil.ignore_patterns("__pycache__"))
    if final is not None:
        described = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        described["base_model_name_or_path"] = str(final.resolve() / BASE)
        write_atomic(folder / CONFIG, json.dumps(described, indent=2).encode())


def _warnings(rank: int, trained_rank: int) -> list[str]:
    if rank == trained_rank:
        return []
    more = f"The aggregation method's residual on the base's weights raises the rank from {trained_rank} to {rank}"
    limit = (
        f"more than the {LARGEST_VLLM_RANK} that vLLM supports"
        if rank > LARGEST_VLLM_RANK
        else "set vLLM's --max-lora-rank"
    )
    return [f"{more}: {limit}. --to merged contains the same at the size of the base."]


def _difference(adapter: Adapter, folder: Path, described: dict[str, Any]) -> float:
    stored = safetensors.numpy.load_file(folder / WEIGHTS)
    scale = described["lora_alpha"] / described["r"]
    worst = 0.0
    for module in adapter.schema.modules:
        a, b = (stored[f"base_model.model.{module.name}.lora_{factor}.weight"] for factor in "AB")
        expected = adapter.change(module)
        largest = max(float(np.abs(expected).max()), 1e-30)
        worst = max(worst, float(np.abs(scale * (b.astype(np.float64) @ a) - expected).max()) / largest)
    return worst
