"""Unsloth: the only file that knows it. It needs a GPU, and a process for itself.

Importing Unsloth patches `transformers`, PEFT and TRL for the whole process, so it must be imported before them. This
file imports nothing heavy at the top level.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....common.adapter.schema import AdapterSchema
from ....common.errors import ConfigError
from ....common.settings.backend import Backend
from .backend_check import WITHOUT_UNSLOTH, check_backend

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PATCHED = ("transformers", "peft", "trl")


def import_unsloth(backend: Backend) -> None:
    """Import Unsloth if the backend uses it. Call this before importing any library that it patches.

    Raises:
        ConfigError: it is not installed, finds no GPU, or one of the libraries is imported already.
    """
    if backend.loader != "unsloth" or "unsloth" in sys.modules:
        return
    check_backend(backend)
    early = [name for name in PATCHED if name in sys.modules]
    if early:
        raise ConfigError(
            f"backend.loader is unsloth, but this process has already imported {', '.join(early)}, and Unsloth has to "
            f"come first. Start it in a separate process. {WITHOUT_UNSLOTH}"
        )
    try:
        import unsloth  # noqa: F401  # pyright: ignore[reportMissingImports, reportUnusedImport]
    except (ImportError, NotImplementedError, RuntimeError) as error:
        raise ConfigError(f"Unsloth cannot be imported here: {error}. {WITHOUT_UNSLOTH}") from error


def load_with_unsloth(folder: Path, dtype: str, *, four_bit: bool) -> PreTrainedModel:
    """Load the base model of a folder, patched by Unsloth."""
    import torch
    from unsloth import FastLanguageModel  # pyright: ignore[reportMissingImports]

    longest = json.loads((folder / "config.json").read_text()).get("max_position_embeddings", 2048)
    try:
        model, _ = FastLanguageModel.from_pretrained(
            model_name=str(folder),
            max_seq_length=longest,
            dtype=None if dtype == "auto" else getattr(torch, dtype),
            load_in_4bit=four_bit,
            fast_inference=False,
            local_files_only=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(f"Unsloth cannot load the model in {folder}: {error}") from error
    return model


def adapt_with_unsloth(model: PreTrainedModel, schema: AdapterSchema, *, checkpointing: bool) -> Any:
    """Return the model with a LoRA adapter of the schema's shape, using Unsloth's kernels.

    Raises:
        ConfigError: Unsloth would adapt other layers than those in the schema.
    """
    from unsloth import FastLanguageModel  # pyright: ignore[reportMissingImports]

    names = sorted({module.name.rpartition(".")[2] for module in schema.modules})
    adapted = FastLanguageModel.get_peft_model(
        model,
        r=schema.rank,
        lora_alpha=schema.alpha,
        target_modules=names,
        lora_dropout=0,
        bias="none",
        use_gradient_checkpointing="unsloth" if checkpointing else False,
        random_state=schema.seed,
    )
    layers = {
        name.removeprefix("base_model.model.").partition(".lora_A.")[0]
        for name, _ in adapted.named_parameters()
        if ".lora_A." in name
    }
    if layers != {module.name for module in schema.modules}:
        raise ConfigError(
            f"Unsloth adapts other layers than adapter.target-modules names ({', '.join(names)}). {WITHOUT_UNSLOTH}"
        )
    return adapted
