"""The base model and its LoRA adapter: the only file that knows PEFT.

The base model is loaded once in a process and never changed. An adapter goes in and out as the flat vector of
`common.adapter`; PEFT's own setter takes wrong names and NaN without a word, so names and shapes are matched here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from peft import LoraConfig, PeftModel
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from ...common.adapter import Adapter, AdapterSchema, Module
from ...common.config import RunConfig
from ...common.errors import ConfigError
from .files import file_hash

PROBE = "If 17 apples cost $34.50, what do 3 cost?\n<reasoning>\n"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
REFERENCE = "ref"  # the name TRL looks for


@dataclass(frozen=True, slots=True)
class Base:
    """A base model, resident in memory, with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    sha256: str
    """Of its files (`file_hash`)."""

    @property
    def dtype(self) -> str:
        """Type of the weights: `float32`, `bfloat16` or `float16`."""
        return str(self.model.dtype).removeprefix("torch.")

    @classmethod
    def load(cls, folder: Path, dtype: str, device: torch.device) -> Base:
        """Load a model folder: safetensors only, no code from the folder."""
        return cls(load_base(folder, dtype, device), load_tokenizer(folder), file_hash(folder))


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer a model folder holds.

    `AutoTokenizer` rebuilds the tokenizer of some model types from its vocabulary and so replaces a custom one
    without a word. Where the two disagree on a probe, the file itself is right.
    """
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ConfigError(f"The model folder {folder} holds no tokenizer: none of {', '.join(TOKENIZER_FILES)}.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"The tokenizer in {folder} cannot be loaded: {error}") from error
    file = folder / "tokenizer.json"
    if file.is_file():
        exact = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        if exact(PROBE)["input_ids"] != tokenizer(PROBE)["input_ids"]:
            tokenizer = exact
    if tokenizer.chat_template is None:
        raise ConfigError(f"The tokenizer in {folder} has no chat template, so prompts cannot be put to this model.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer


def load_base(folder: Path, dtype: str, device: torch.device) -> PreTrainedModel:
    """The base model of a folder, safetensors only, no code from the folder; `auto` takes the type of the file."""
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ConfigError(f"The model in {folder} cannot be loaded: {error}") from error
    model.to(device)  # pyright: ignore[reportArgumentType]
    return model


def adapter_schema(model: PreTrainedModel, config: RunConfig, trains: tuple[str, ...]) -> AdapterSchema:
    """The adapter that the settings describe, on this model: its linear layers that match, in alphabetical order."""
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
    return AdapterSchema(
        modules=tuple(sorted(modules, key=lambda module: module.name)),
        rank=config.adapter.rank,
        alpha=config.adapter.alpha,
        trains=trains,
        seed=config.federation.seed,
    )


def lora_config(schema: AdapterSchema) -> LoraConfig:
    """PEFT's description of the adapter."""
    return LoraConfig(
        r=schema.rank,
        lora_alpha=schema.alpha,
        target_modules=[module.name for module in schema.modules],
        task_type="CAUSAL_LM",
    )


class AdaptedModel:
    """A PEFT model whose adapters are set and read as flat vectors."""

    def __init__(self, model: PeftModel, schema: AdapterSchema) -> None:
        self.model = model
        self.schema = schema

    def load(self, adapter: Adapter, name: str = "default") -> None:
        """Copy an adapter's tensors into the model, the frozen ones too."""
        if adapter.schema.sha256 != self.schema.sha256:
            raise ValueError("the adapter is of another schema than the model")
        parameters = self._parameters(name)
        with torch.no_grad():
            for key, tensor in adapter.tensors().items():
                parameters[key].copy_(torch.from_numpy(tensor.copy()))

    def read(self) -> Adapter:
        """The model's adapter as it stands."""
        values = {key: p.detach().float().cpu().numpy() for key, p in self._parameters("default").items()}
        return Adapter.from_tensors(self.schema, values)

    def add_reference(self) -> None:
        """Add the frozen second adapter that TRL measures the KL from."""
        self.model.add_adapter(REFERENCE, self.model.peft_config["default"])
        self.freeze()

    def freeze(self) -> None:
        """Let only the factors train that the schema trains. Switching adapters, PEFT thaws all of them."""
        trained = tuple(f".lora_{factor}.default." for factor in self.schema.trains)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(any(mark in name for mark in trained))

    def release(self) -> PreTrainedModel:
        """The base model as it was before it was adapted. This object is of no use afterwards."""
        return cast(PreTrainedModel, self.model.unload())

    @contextmanager
    def base_only(self) -> Iterator[None]:
        """The base model without its adapter, for a while."""
        with self.model.disable_adapter():
            yield

    def _parameters(self, name: str) -> dict[tuple[Module, str], nn.Parameter]:
        all_of_them = dict(self.model.named_parameters())
        keys = [(module, factor) for module in self.schema.modules for factor in ("A", "B")]
        return {
            (m, f): cast(nn.Parameter, all_of_them[f"base_model.model.{m.name}.lora_{f}.{name}.weight"])
            for m, f in keys
        }
