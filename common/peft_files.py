"""PEFT's file format, read and written with numpy: the files open with `PeftModel.from_pretrained` and in vLLM."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors
import safetensors.numpy

from .adapter import Adapter, AdapterSchema, Module, Vector
from .errors import ConfigError
from .files import write_atomic

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
SCHEMA = "adapter_schema.json"


def write_peft(adapter: Adapter, folder: Path, base_model: str) -> None:
    """Write an adapter as a PEFT folder, plus the schema that says which factors were trained.

    Args:
        base_model: the name PEFT should load the base model by. A path of this machine does not belong here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {_key(module, factor): value for (module, factor), value in adapter.tensors().items()}
    write_atomic(folder / WEIGHTS, safetensors.numpy.save(dict(sorted(tensors.items())), metadata={"format": "pt"}))
    write_atomic(folder / CONFIG, json.dumps(_peft_config(adapter.schema, base_model), indent=2).encode())
    write_atomic(folder / SCHEMA, adapter.schema.to_json().encode())


def read_peft(folder: Path) -> Adapter:
    """Read an adapter that `write_peft` wrote.

    Raises:
        ConfigError: the folder is no such adapter, a file is damaged, or a frozen factor is not the one its seed gives.
    """
    try:
        schema = AdapterSchema.from_json((folder / SCHEMA).read_text(encoding="utf-8"))
        stored: dict[str, Vector] = safetensors.numpy.load_file(folder / WEIGHTS)  # pyright: ignore[reportUnknownMemberType]
    except OSError as error:
        raise ConfigError(f"{folder} holds no adapter of fedgrpo: {error.strerror} ({error.filename}).") from error
    except (ValueError, safetensors.SafetensorError) as error:
        raise ConfigError(f"The adapter in {folder} is damaged: {error}.") from error
    named = {(m, f): stored.get(_key(m, f)) for m in schema.modules for f in ("A", "B")}
    try:
        adapter = Adapter.from_tensors(schema, {k: v for k, v in named.items() if v is not None})
    except ValueError as error:
        raise ConfigError(f"The adapter in {folder} is damaged: {error}.") from error
    frozen = adapter.tensors()
    if any(tensor is None or (tensor != frozen[key]).any() for key, tensor in named.items()):
        raise ConfigError(f"The adapter in {folder} is damaged: a frozen factor is not the one its seed gives.")
    return adapter


def _key(module: Module, factor: str) -> str:
    return f"base_model.model.{module.name}.lora_{factor}.weight"


def _peft_config(schema: AdapterSchema, base_model: str) -> dict[str, object]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": schema.rank,
        "lora_alpha": schema.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": [module.name for module in schema.modules],
        "inference_mode": True,
    }
