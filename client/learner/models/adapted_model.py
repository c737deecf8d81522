"""The base model and its LoRA adapter: the only file that knows PEFT.

The base model is loaded once in a process and never changed. An adapter goes in and out as the flat vector of
`common.adapter`; PEFT's own setter takes wrong names and NaN without a word, so names and shapes are matched here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel
from torch import nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from ....common.adapter.adapter import Adapter
from ....common.adapter.schema import SHARED, AdapterSchema, Key, Module, Vector
from ....common.errors import ConfigError
from ....common.messages.messages import run_schema
from ....common.settings.run_config import RunConfig

REFERENCE = "ref"  # the name TRL looks for


def adapter_schema(model: PreTrainedModel, config: RunConfig, rank: int = 0) -> AdapterSchema:
    """The adapter that the settings describe, on this model: its linear layers that match, in alphabetical order.

    Args:
        rank: this client's own, where it trains a smaller one than the federation's; 0 takes the federation's.
    """
    wanted = {name.strip() for name in config.adapter.target_modules.split(",")}
    head = model.get_output_embeddings()
    modules = [
        Module(name, layer.in_features, layer.out_features)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
        and layer is not head
        and (wanted == {"all-linear"} or name.rpartition(".")[2] in wanted)
    ]
    if not modules:
        raise ConfigError(
            f"No linear layer of the model is named {config.adapter.target_modules} (adapter.target-modules). "
            "Use all-linear, or names such as q_proj,v_proj."
        )
    whole = run_schema(config, tuple(sorted(modules, key=lambda module: module.name)))
    return whole.at_rank(rank or whole.rank)


def lora_config(schema: AdapterSchema) -> LoraConfig:
    """PEFT's description of the adapter."""
    return LoraConfig(
        r=schema.rank,
        lora_alpha=schema.alpha,
        target_modules=[module.name for module in schema.modules],
        task_type="CAUSAL_LM",
    )


def attach(model: PreTrainedModel, adapter: Adapter) -> AdaptedModel:
    """A base model with an adapter that is to be run, not trained.

    Raises:
        ConfigError: the model has no such layers, or they have other shapes.
    """
    layers = dict(model.named_modules())
    for module in adapter.schema.modules:
        layer = layers.get(module.name)
        shape = (layer.in_features, layer.out_features) if isinstance(layer, nn.Linear) else None
        if shape != (module.in_features, module.out_features):
            raise ConfigError(f"The adapter does not fit this base model: its layer {module.name} is another or none.")
    adapted = AdaptedModel(PeftModel(model, lora_config(adapter.schema)), adapter.schema)
    adapted.load(adapter)
    return adapted


class _Core(nn.Module):
    """B as a function of a core: P R, or P (sum_i v_i Q_i)."""

    def __init__(self, left: torch.Tensor, bases: torch.Tensor | None) -> None:
        super().__init__()
        self.left, self.bases = (
            nn.Buffer(left, persistent=False),
            bases if bases is None else nn.Buffer(bases, persistent=False),
        )

    def forward(self, core: torch.Tensor) -> torch.Tensor:
        return self.left @ (core if self.bases is None else torch.tensordot(core, self.bases, dims=1))

    def right_inverse(self, value: torch.Tensor) -> torch.Tensor:
        """A core to start with; `AdaptedModel.load` sets it before it is used."""
        return value.new_zeros((value.shape[1], value.shape[1]) if self.bases is None else self.bases.shape[:1])


def _in_float32(model: PeftModel) -> None:
    """TRL rounds the adapter of a quantised base to bfloat16, where a step at GRPO's learning rates is lost."""
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.float()


class AdaptedModel:
    """A PEFT model whose adapters are set and read as flat vectors."""

    def __init__(self, model: PeftModel, schema: AdapterSchema) -> None:
        self.model = model
        self.schema = schema
        self.trains: tuple[str, ...] = schema.holds
        """Factors that train."""
        _in_float32(model)
        self._loaded: Adapter | None = None
        self._pristine: dict[str, torch.Tensor] = {}
        if "W" in schema.holds:
            self._pristine = {m.name: self._layer(m).base_layer.weight.detach().clone() for m in schema.modules}
        if self._has_cores:
            self._add_cores()

    def load(self, adapter: Adapter, name: str = "default") -> None:
        """Copy an adapter's factors into the model, the frozen ones too."""
        if adapter.schema.sha256 != self.schema.sha256:
            raise ValueError("the adapter is of another schema than the model")
        parts = adapter.parts()
        with torch.no_grad():
            for module in self.schema.modules:
                layer, (a, b) = self._layer(module), adapter.lora(module)
                layer.lora_A[name].weight.copy_(torch.from_numpy(a.copy()))
                if name == "default" and self._has_cores:
                    self._core(module).copy_(torch.from_numpy(parts[self._core_key(module)].copy()))
                else:
                    layer.lora_B[name].weight.copy_(torch.from_numpy(b.copy()))
        self._set_residuals(adapter)
        if name == "default":
            self._loaded = adapter

    def read(self) -> Adapter:
        """The adapter that was loaded last, with its factors as they stand in the model now."""
        assert self._loaded is not None
        parts: dict[Key, Vector] = dict(self._loaded.parts())
        for module in self.schema.modules:
            layer = self._layer(module)
            now = {(module.name, f): getattr(layer, f"lora_{f}")["default"].weight for f in "AB"}
            if self._has_cores:
                now = {self._core_key(module): self._core(module)}
            parts |= {key: now[key].detach().float().cpu().numpy() for key in now.keys() & parts.keys()}
        return Adapter.from_parts(self.schema, parts)

    def add_reference(self) -> None:
        """Add the frozen second adapter that TRL measures the KL from."""
        self.model.add_adapter(REFERENCE, self.model.peft_config["default"])
        self.freeze()

    def drop_reference(self) -> None:
        """Remove the second adapter that TRL adds by itself to a model that it is given adapted."""
        if REFERENCE in self.model.peft_config:
            self.model.delete_adapter(REFERENCE)

    def freeze(self) -> None:
        """Let only the factors train that are to. Switching adapters, PEFT thaws all of them."""
        marks = tuple(f".lora_{factor}.default." for factor in self.trains if factor in "AB")
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(any(mark in name for mark in marks))
        if self._has_cores:
            for module in self.schema.modules:
                self._core(module).requires_grad_(True)

    def release(self) -> PreTrainedModel:
        """The base model as it was before it was adapted. This object is of no use afterwards."""
        self._set_residuals(None)
        return cast(PreTrainedModel, self.model.unload())

    @contextmanager
    def base_only(self) -> Iterator[None]:
        """The base model without its adapter, for a while."""
        self._set_residuals(None)
        try:
            with self.model.disable_adapter():
                yield
        finally:
            self._set_residuals(self._loaded)

    @property
    def _has_cores(self) -> bool:
        return bool({"R", "v"} & set(self.schema.holds))

    def _set_residuals(self, adapter: Adapter | None) -> None:
        """Put an adapter's W on the base model's weights; None takes it off, to the last bit."""
        parts = adapter.parts() if adapter else {}
        with torch.no_grad():
            for module in self.schema.modules if self._pristine else ():
                weight, own = self._layer(module).base_layer.weight, self._pristine[module.name]
                residual = parts.get((module.name, "W"))
                weight.copy_(own if residual is None else own + torch.from_numpy(residual.copy()).to(own))

    def _add_cores(self) -> None:
        """Make every B of the adapter a function of its core, which takes its place as what trains."""
        shared: nn.Parameter | None = None
        for module in self.schema.modules:
            linear = self._layer(module).lora_B["default"]
            left, bases = (torch.from_numpy(self.schema.drawn(module, what)).to(linear.weight) for what in "PQ")
            core = _Core(left, bases if "v" in self.schema.holds else None)
            parametrize.register_parametrization(linear, "weight", core, unsafe=True)
            if "v" in self.schema.holds:
                shared = shared if shared is not None else self._core(module)
                linear.parametrizations["weight"].original = shared  # one v for all layers

    def _core(self, module: Module) -> nn.Parameter:
        return self._layer(module).lora_B["default"].parametrizations["weight"].original

    def _core_key(self, module: Module) -> Key:
        return (SHARED, "v") if "v" in self.schema.holds else (module.name, "R")

    def _layer(self, module: Module) -> Any:
        return self.model.get_submodule(f"base_model.model.{module.name}")
