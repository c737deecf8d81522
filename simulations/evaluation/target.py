"""The target of an evaluation: a run's last adapter, one of its adapters, any PEFT adapter, or a model alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from ...common.adapter.adapter import Adapter
from ...common.adapter.methods import METHODS
from ...common.adapter.peft_files import BASE, CONFIG, SCHEMA, WEIGHTS, read_peft
from ...common.adapter.schema import AdapterSchema, Key, Vector
from ...common.errors import ConfigError
from ...common.settings.run_config import RunConfig, Value
from ...server.run.locate import locate_adapter

UNSUPPORTED = (
    "use_dora",
    "use_rslora",
    "use_qalora",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "fan_in_fan_out",
    "alora_invocation_tokens",
    "layer_replication",
)
"""Options of PEFT with which the change of a layer is not alpha / rank * B A."""
MOVED_BASE = ("pissa", "olora", "corda", "loftq")
"""Initialisations (init_lora_weights) that also change the base's weights: A and B do not fit another base."""


@dataclass(frozen=True, slots=True)
class Target:
    """A model with or without an adapter, and the settings to load and sample it."""

    name: str
    config: RunConfig
    folder: Path | None
    """Folder of the adapter; None is the model alone."""
    of_run: bool
    """Whether settings, problems and rewards are those of a run."""

    def with_settings(self, values: Mapping[str, Value]) -> Target:
        """Return the target with some settings changed."""
        return replace(self, config=self.config.with_values(values))

    def adapter(self, schema: AdapterSchema) -> Adapter | None:
        """Load the adapter for a model with this schema.

        Raises:
            ConfigError: it is damaged, or was trained on a model of other shapes.
        """
        if self.folder is None:
            return None
        adapter = read_peft(self.folder) if (self.folder / SCHEMA).is_file() else _foreign(self.folder, schema)
        if adapter.schema.sha256 != schema.sha256:
            raise ConfigError(
                f"The adapter in {self.folder} was trained on a model of other shapes than {self.config.model.name}."
            )
        return adapter


def locate(target: Path | None, model: str | None) -> Target:
    """Return the target that the command line names.

    Args:
        target: a run folder (its last adapter is used), `RUN/adapters/NUMBER`, or a PEFT adapter; None: a model alone.
        model: a Hub name, a folder or `builtin`: the model alone, or the base model if the target's is not available.

    Raises:
        ConfigError: `target` is not one of these, or neither is given.
    """
    if target is None:
        if model is None:
            raise ConfigError("Give a run folder, an adapter, or a model (--model NAME).")
        return Target(model, RunConfig().with_values({"model.name": model}), None, False)
    located = locate_adapter(target)
    if located.run is None:
        found = _adapter(located.folder)
    else:
        run_folder = located.run.folder.resolve()
        found = Target(f"{run_folder.name}, adapter {located.folder.name}", located.run.config, located.folder, True)
    return found if model is None else found.with_settings({"model.name": model})


def _adapter(folder: Path) -> Target:
    """Return the target of a PEFT adapter in any folder, with settings from its own files."""
    try:
        peft_config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        schema, base = folder / SCHEMA, folder / BASE
        values = (
            _ours(AdapterSchema.from_json(schema.read_text())) if schema.is_file() else _theirs(folder, peft_config)
        )
        model = str(base.resolve() if base.is_dir() else peft_config["base_model_name_or_path"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder / CONFIG} does not describe a LoRA adapter: {error!r}.") from error
    return Target(folder.name, RunConfig().with_values({"model.name": model, **values}), folder, False)


def _ours(schema: AdapterSchema) -> dict[str, object]:
    method = next(name for name, method in METHODS.items() if method.holds == schema.holds)
    values = {"adapter.tiny-size": schema.tiny_size} if schema.tiny_size else {}
    return {
        "adapter.rank": schema.rank,
        "adapter.alpha": schema.alpha,
        "adapter.target-modules": _last_parts([module.name for module in schema.modules]),
        "aggregation.method": method,
        "federation.seed": schema.seed,
        **values,
    }


def _theirs(folder: Path, peft_config: dict[str, Any]) -> dict[str, object]:
    unsupported = [name for name in UNSUPPORTED if peft_config.get(name)]
    if str(peft_config.get("init_lora_weights")).lower().startswith(MOVED_BASE):
        unsupported.append("init_lora_weights")
    if float(peft_config["lora_alpha"]) % 1:
        unsupported.append("lora_alpha")
    if peft_config["peft_type"] != "LORA" or unsupported or peft_config.get("bias", "none") != "none":
        option = unsupported[0] if unsupported else "bias or another type than LORA"
        raise ConfigError(f"The adapter in {folder} is not plain LoRA: {CONFIG} uses {option}, which is not supported.")
    names = [name.rpartition(".lora_")[0] for name in _tensors(folder)]
    return {
        "adapter.rank": int(peft_config["r"]),
        "adapter.alpha": int(peft_config["lora_alpha"]),
        "adapter.target-modules": _last_parts(names),
        "aggregation.method": "naive",
    }


def _last_parts(names: list[str]) -> str:
    return ",".join(sorted({name.rpartition(".")[2] for name in names}))


def _foreign(folder: Path, schema: AdapterSchema) -> Adapter:
    """Load a plain LoRA adapter that PEFT wrote. Layers without tensors get zeros, which change nothing."""
    stored = _tensors(folder)
    parts: dict[Key, Vector] = {key: np.zeros(shape, np.float32) for key, shape in schema.layout()}
    for name, tensor in stored.items():
        layer, _, factor = name.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".lora_")
        if (layer, factor) not in parts or parts[layer, factor].shape != tensor.shape:
            raise ConfigError(f"The adapter in {folder} does not fit the model: {name} of shape {tensor.shape}.")
        parts[layer, factor] = tensor.astype(np.float32)
    return Adapter.from_parts(schema, parts)


def _tensors(folder: Path) -> dict[str, Vector]:
    try:
        return safetensors.numpy.load_file(folder / WEIGHTS)
    except (OSError, safetensors.SafetensorError, TypeError, KeyError) as error:  # numpy does not have bfloat16
        raise ConfigError(f"Cannot read {folder / WEIGHTS}: {error!r}. It must hold float32 or float16.") from error
