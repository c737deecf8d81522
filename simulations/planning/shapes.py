"""The shape of a model, from its config.json: parameters, linear layers, widths. No torch, no network."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from ...client.learner.models.gguf.header import GGUF, config_of
from ...client.learner.models.registry import fetched_folder, is_gguf
from ...common.adapter.schema import Module
from ...common.errors import ConfigError
from ..engine.simulated_clients import BUILTIN_POLICIES

KNOWN = Path(__file__).parent / "models.toml"
FAMILIES = ("qwen2", "qwen3", "llama", "mistral")
"""Decoders with rotary attention, RMS norms and a gated MLP, whose layers all have the same shape."""
SUFFIXES = re.compile(r"(-instruct|-base|-it|-unsloth|-bnb-4bit|-bnb-8bit)+(-\d{4})?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The widths and counts of a decoder."""

    family: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    """Whether the output layer is the embedding."""
    biases: tuple[str, ...] = ()
    """Linear layers that have a bias."""
    source: str = ""
    """Origin of the shape, in words."""

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """Linear layers of one decoder layer: (width in, width out)."""
        h, q, kv, i = self.hidden, self.heads * self.head_dim, self.kv_heads * self.head_dim, self.intermediate
        attention = {"q_proj": (h, q), "k_proj": (h, kv), "v_proj": (h, kv), "o_proj": (q, h)}
        return attention | {"gate_proj": (h, i), "up_proj": (h, i), "down_proj": (i, h)}

    @property
    def linear_numbers(self) -> int:
        """Numbers in the weights of all decoder layers' linear layers, which quantization makes smaller."""
        return self.layers * sum(i * o for i, o in self.linears.values())

    @property
    def parameters(self) -> int:
        """Parameters of the whole model; a tied output layer counts once."""
        biases = sum(self.linears[name][1] for name in self.biases)
        norms = 2 * self.hidden + (2 * self.head_dim if self.family == "qwen3" else 0)
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return self.linear_numbers + self.layers * (biases + norms) + self.hidden + embeddings

    def modules(self, target_modules: str) -> tuple[Module, ...]:
        """Return the adapted layers, by their PEFT names, in alphabetical order.

        Raises:
            ConfigError: none matches.
        """
        targets = {name.strip() for name in target_modules.split(",")}
        modules = [
            Module(f"model.layers.{layer}.{'mlp' if name in MLP else 'self_attn'}.{name}", *widths)
            for layer in range(self.layers)
            for name, widths in self.linears.items()
            if targets == {"all-linear"} or name in targets
        ]
        if not modules:
            raise ConfigError(
                f"No linear layer of the model is named {target_modules} (adapter.target-modules). "
                f"Use all-linear, or some of {','.join(self.linears)}."
            )
        return tuple(sorted(modules, key=lambda module: module.name))


MLP = ("gate_proj", "up_proj", "down_proj")


def shape_of(name: str, revision: str = "") -> Shape:
    """Return the shape of a model: from its folder, else from the Hub's cache, else from the table of well-known
    models.

    Raises:
        ConfigError: it is not in any of them, or its family is not supported.
    """
    folder = BUILTIN_POLICIES.get(name) or fetched_folder(name) or Path(name).expanduser()
    if is_gguf(name) and folder.is_file():
        return from_config(config_of(GGUF.read(folder)), f"{name}'s own header")
    path = folder / "config.json"
    if path.is_file():
        return from_config(_read(path), f"{name}'s own config.json")
    cached = None if name.startswith((".", "/", "~")) else _in_hub_cache(name, revision)
    if cached:
        return from_config(_read(cached), "config.json in the Hub's cache")
    known = tomllib.loads(KNOWN.read_text(encoding="utf-8"))
    key = SUFFIXES.sub("", name.rpartition("/")[2].lower())
    if key in known:
        return from_config(known[key], "the table that comes with fedgrpo")
    raise ConfigError(
        f"The shape of the model {name} is unknown: there is no folder {name} with a config.json, it is not in the "
        f"Hub's cache, and the table of well-known models has {', '.join(sorted(known))}. Put its config.json into a "
        "folder and use that: --set model.name=FOLDER."
    )


def from_config(config: Mapping[str, object], source: str) -> Shape:
    """Return the shape that a config.json describes.

    Raises:
        ConfigError: a width is missing, or the family is not one of FAMILIES.
    """
    family = str(config.get("model_type", ""))
    if family not in FAMILIES:
        raise ConfigError(f"{source}: model_type is {family!r}; a plan knows the layers of {', '.join(FAMILIES)} only.")

    def number(key: str, otherwise: int | None = None) -> int:
        value = config.get(key, otherwise)
        value = otherwise if value is None else value
        if type(value) is not int or value < 1:
            raise ConfigError(f"{source}: {key} is {value!r}, not a whole number from 1.")
        return value

    heads = number("num_attention_heads")
    attention, mlp = ("q_proj", "k_proj", "v_proj", "o_proj"), MLP
    with_bias = config.get("attention_bias") is True and family in ("llama", "qwen3")
    biases = attention[:3] if family == "qwen2" else attention if with_bias else ()
    return Shape(
        family=family,
        hidden=number("hidden_size"),
        intermediate=number("intermediate_size"),
        layers=number("num_hidden_layers"),
        heads=heads,
        kv_heads=number("num_key_value_heads", heads),
        head_dim=number("head_dim", number("hidden_size") // heads),
        vocabulary=number("vocab_size"),
        tied=config.get("tie_word_embeddings", False) is True,
        biases=biases + (mlp if config.get("mlp_bias") is True and family == "llama" else ()),
        source=source,
    )


def _read(path: Path) -> dict[str, object]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"Cannot read {path}: {error}.") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{path} does not contain the settings of a model.")
    return cast(dict[str, object], settings)


def _in_hub_cache(name: str, revision: str) -> Path | None:
    """Return config.json of a model that the Hub's client has downloaded before. Only reads the disk."""
    if name.count("/") != 1 or not find_spec("huggingface_hub"):
        return None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        path = try_to_load_from_cache(name, "config.json", revision=revision or None)
    except HFValidationError as error:
        raise ConfigError(f"model.name is {name!r}, which is neither a folder nor a Hub name.") from error
    return Path(path) if isinstance(path, str) else None
