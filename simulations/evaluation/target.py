"""What is evaluated: a run's last adapter, one of its adapters, any other PEFT adapter, or a model alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
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
from ...common.settings.run_config import RunConfig, load_scenario
from ...server.run.reader import Run
from ...server.run.store import Store

ODD_KINDS = (
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
"""Options of PEFT that make something else of A and B than alpha / rank * B A."""
MOVED_BASE = ("pissa", "olora", "corda", "loftq")
"""Ways to begin (init_lora_weights) that change the base's weights, too: A and B fit no other base."""


@dataclass(frozen=True, slots=True)
class Target:
    """A model with or without an adapter, and the settings to load and sample it by."""

    name: str
    config: RunConfig
    folder: Path | None
    """The adapter's; None is the model alone."""
    of_run: bool
    """Whether settings, problems and rewards are those of a run."""

    def adapter(self, schema: AdapterSchema) -> Adapter | None:
        """The adapter, as the loaded model wants it.

        Raises:
            ConfigError: it is damaged, or was trained on a model of other shapes.
        """
        if self.folder is None:
            return None
        found = read_peft(self.folder) if (self.folder / SCHEMA).is_file() else _foreign(self.folder, schema)
        if found.schema.sha256 != schema.sha256:
            raise ConfigError(
                f"The adapter in {self.folder} was trained on a model of other shapes than {self.config.model.name}."
            )
        return found


def locate(target: Path | None, model: str | None) -> Target:
    """What the command line means.

    Args:
        target: a run folder (its last adapter is taken), `RUN/adapters/NUMBER`, or a PEFT adapter; None: a model alone.
        model: a Hub name, a folder or `builtin`: the model alone, or the base model where the target's is not here.

    Raises:
        ConfigError: `target` is none of these, or neither is given.
    """
    if target is None:
        if model is None:
            raise ConfigError("Give a run folder, an adapter, or a model (--model NAME).")
        return Target(model, RunConfig().with_values({"model.name": model}), None, False)
    found = _run(target) or _adapter(target)
    if found is None:
        if (target / "config.json").is_file():
            raise ConfigError(f"{target} is a model, not an adapter or a run. Give it as --model {target}.")
        raise ConfigError(
            f"{target} is neither a run folder nor one of its adapters (RUN/adapters/NUMBER), nor a PEFT adapter "
            f"({CONFIG})."
        )
    if model is None:
        return found
    return Target(found.name, found.config.with_values({"model.name": model}), found.folder, found.of_run)


def _run(target: Path) -> Target | None:
    if (target / "config.resolved.toml").is_file():
        run = target.resolve()
        committed = [line["round"] for line in Run.read(run).journal if line["event"] == "COMMITTED"]
        folder = Store(run).adapter_folder(max(committed, default=0))
    else:
        run, folder = target.resolve().parent.parent, target.resolve()
    if not folder.is_dir() or not (run / "config.resolved.toml").is_file():
        return None
    return Target(f"{run.name}, adapter {folder.name}", load_scenario(run / "config.resolved.toml"), folder, True)


def _adapter(folder: Path) -> Target | None:
    """A PEFT adapter that lies anywhere: settings from its own files."""
    if not (folder / CONFIG).is_file():
        return None
    try:
        told: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        own = folder / SCHEMA
        values = _ours(AdapterSchema.from_json(own.read_text())) if own.is_file() else _theirs(folder, told)
        brought = folder / BASE
        model = str(brought.resolve() if brought.is_dir() else told["base_model_name_or_path"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder / CONFIG} describes no LoRA adapter: {error!r}.") from error
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


def _theirs(folder: Path, told: dict[str, Any]) -> dict[str, object]:
    odd = [name for name in ODD_KINDS if told.get(name)]
    if str(told.get("init_lora_weights")).lower().startswith(MOVED_BASE):
        odd.append("init_lora_weights")
    if float(told["lora_alpha"]) % 1:
        odd.append("lora_alpha")
    if told["peft_type"] != "LORA" or odd or told.get("bias", "none") != "none":
        what = odd[0] if odd else "bias or another type than LORA"
        raise ConfigError(
            f"The adapter in {folder} is no plain LoRA: {CONFIG} has {what}, which fedgrpo does not load."
        )
    names = [name.rpartition(".lora_")[0] for name in _tensors(folder)]
    return {
        "adapter.rank": int(told["r"]),
        "adapter.alpha": int(told["lora_alpha"]),
        "adapter.target-modules": _last_parts(names),
        "aggregation.method": "naive",
    }


def _last_parts(names: list[str]) -> str:
    return ",".join(sorted({name.rpartition(".")[2] for name in names}))


def _foreign(folder: Path, schema: AdapterSchema) -> Adapter:
    """A plain LoRA adapter that PEFT wrote. A layer that it leaves out gets zeros, which change nothing."""
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
    except (OSError, safetensors.SafetensorError, TypeError, KeyError) as error:  # numpy knows no bfloat16
        raise ConfigError(f"Cannot read {folder / WEIGHTS}: {error!r}. It must hold float32 or float16.") from error
