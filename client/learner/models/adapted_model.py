"""A base model with its LoRA adapter: the only file that knows PEFT.

The base model is loaded once per process and never changed. Adapters are set and read as the flat vector of
`common.adapter`. PEFT's own setter silently accepts wrong names and NaN, so this file matches names and shapes itself.
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
    """Return the adapter that the settings describe on this model: its matching linear layers, in alphabetical order.

    Args:
        rank: this client's rank, if it is smaller than the federation's; 0 uses the federation's.

    Raises:
        ConfigError: the model has no layer of these names.
    """
    targets = {name.strip() for name in config.adapter.target_modules.split(",")}
    head = model.get_output_embeddings()
    modules = [
        Module(name, layer.in_features, layer.out_features)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
        and layer is not head
        and (targets == {"all-linear"} or name.rpartition(".")[2] in targets)
    ]
    if not modules:
        raise ConfigError(
            f"No linear layer of the model is named {config.adapter.target_modules} (adapter.target-modules). "
            "Use all-linear, or names such as q_proj,v_proj."
        )
    whole = run_schema(config, tuple(sorted(modules, key=lambda module: module.name)))
    return whole.at_rank(rank or whole.rank)


def lora_config(schema: AdapterSchema) -> LoraConfig:
    """Return PEFT's description of the adapter."""
    return LoraConfig(
        r=schema.rank,
        lora_alpha=schema.alpha,
        target_modules=[module.name for module in schema.modules],
        task_type="CAUSAL_LM",
    )


def attach(model: PreTrainedModel, adapter: Adapter) -> AdaptedModel:
    """Return a base model with an adapter, for inference.

    Raises:
        ConfigError: the model lacks one of the layers, or it has another shape.
    """
    layers = dict(model.named_modules())
    for module in adapter.schema.modules:
        layer = layers.get(module.name)
        shape = (layer.in_features, layer.out_features) if isinstance(layer, nn.Linear) else None
        if shape != (module.in_features, module.out_features):
            found = f"has the shape {shape}" if shape else "is missing"
            raise ConfigError(
                f"The adapter does not fit this base model: the layer {module.name} {found}. Use the base model that "
                "the adapter was trained on."
            )
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
        """Return an initial core, as torch asks for one; `AdaptedModel.load` replaces it before it is used."""
        return value.new_zeros((value.shape[1], value.shape[1]) if self.bases is None else self.bases.shape[:1])


def _in_float32(model: PeftModel) -> None:
    """Convert the adapter to float32: TRL rounds that of a quantized base to bfloat16, where a step at GRPO's learning
    rates is lost."""
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
        """Copy an adapter's factors into the model, including the frozen ones."""
        if adapter.schema.sha256 != self.schema.sha256:
            raise ValueError("the adapter has another schema than the model")
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
        """Return the adapter that was loaded last, with the current values of its factors."""
        assert self._loaded is not None
        parts: dict[Key, Vector] = dict(self._loaded.parts())
        factors = self._factors()
        parts |= {key: factors[key].detach().float().cpu().numpy() for key in factors.keys() & parts.keys()}
        return Adapter.from_parts(self.schema, parts)

    def trained_parameters(self) -> dict[Key, nn.Parameter]:
        """Return the factors that train, by their place in the vector."""
        return {key: parameter for key, parameter in self._factors().items() if key[1] in self.trains}

    def add_reference(self) -> None:
        """Add the frozen second adapter that TRL measures the KL divergence from."""
        self.model.add_adapter(REFERENCE, self.model.peft_config["default"])
        self.freeze()

    def drop_reference(self) -> None:
        """Remove the second adapter that TRL adds to a model that already has an adapter."""
        if REFERENCE in self.model.peft_config:
            self.model.delete_adapter(REFERENCE)

    def freeze(self) -> None:
        """Make only the factors in `trains` trainable. PEFT unfreezes all of them when it switches adapters."""
        marks = tuple(f".lora_{factor}.default." for factor in self.trains if factor in "AB")
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(any(mark in name for mark in marks))
        if self._has_cores:
            for module in self.schema.modules:
                self._core(module).requires_grad_(True)

    def release(self) -> PreTrainedModel:
        """Return the base model as it was before it was adapted. This object cannot be used afterwards."""
        self._set_residuals(None)
        return cast(PreTrainedModel, self.model.unload())

    @contextmanager
    def base_only(self) -> Iterator[None]:
        """Use the base model without its adapter inside a `with` block."""
        self._set_residuals(None)
        try:
            with self.model.disable_adapter():
                yield
        finally:
            self._set_residuals(self._loaded)

    def _factors(self) -> dict[Key, nn.Parameter]:
        """Return the model's parameters by layer and factor, the frozen ones too."""
        if self._has_cores:
            return {self._core_key(module): self._core(module) for module in self.schema.modules}
        return {
            (module.name, factor): getattr(self._layer(module), f"lora_{factor}")["default"].weight
            for module in self.schema.modules
            for factor in "AB"
        }

    @property
    def _has_cores(self) -> bool:
        return bool({"R", "v"} & set(self.schema.holds))

    def _set_residuals(self, adapter: Adapter | None) -> None:
        """Add an adapter's W to the base model's weights; None restores the original weights exactly."""
        parts = adapter.parts() if adapter else {}
        with torch.no_grad():
            for module in self.schema.modules if self._pristine else ():
                weight, original = self._layer(module).base_layer.weight, self._pristine[module.name]
                residual = parts.get((module.name, "W"))
                if residual is not None:
                    original = original + torch.from_numpy(residual.copy()).to(original)
                weight.copy_(original)

    def _add_cores(self) -> None:
        """Make every B of the adapter a function of its core, which becomes the trainable parameter."""
        shared: nn.Parameter | None = None
        for module in self.schema.modules:
            linear = self._layer(module).lora_B["default"]
            left, bases = (torch.from_numpy(self.schema.drawn(module, factor)).to(linear.weight) for factor in "PQ")
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
