"""From what was asked to a finished folder: the steps of an export, in order."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...common import __version__
from ...common.errors import ConfigError, RunError
from .card import card, check_jinja
from .output_folder import RECORD, check_free, listing, new_folder
from .peft_folder import write_adapter, write_base
from .push import check_push, push
from .quantize import QUANTISED, quantize, quantizer
from .source import Source

Say = Callable[[str], None]
HEAVY = ("torch", "transformers", "peft")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What an export is to be."""

    to: str
    """`adapter`, `merged` or `gguf`."""
    kind: str = ""
    """Type of the weights: of `merged` a dtype, of `gguf` one of GGUF's."""
    model: str = ""
    """Where the base model is; empty takes the run's."""
    repository: str = ""
    """Where to push it; empty is nowhere."""
    public: bool = False


@dataclass(slots=True)
class Made:
    """What a step wrote, and how far it is from what it should be."""

    told: dict[str, str]
    """For people: what was compared -> what was found."""
    differences: dict[str, object]
    warnings: list[str]
    file: str = ""
    rank: int = 0


def export_to(folder: Path, source: Source, wanted: Wanted, *, force: bool, say: Say) -> dict[str, Any]:
    """Write an export, check it, push it where that is asked for, and tell what was made.

    Raises:
        ConfigError: something needed is not there. Nothing was written.
        RunError: the export is not what it should be, or could not be pushed. No half of one is left.
    """
    _check(wanted)
    check_free(folder, force)
    with new_folder(folder, force) as aside:
        made = {"adapter": _adapter, "merged": _merged, "gguf": _gguf}[wanted.to](source, wanted, aside, say)
        if wanted.to == "adapter":
            write_base(source.base, aside, None if wanted.repository else folder)
        text = card(
            source,
            wanted.to,
            kind=wanted.kind,
            file=made.file,
            rank=made.rank,
            repository=wanted.repository,
            differences=made.told,
            warnings=made.warnings,
        )
        (aside / "README.md").write_text(text, encoding="utf-8")
        facts: dict[str, Any] = {
            "to": wanted.to,
            "type": wanted.kind,
            "fedgrpo": __version__,
            "base_model": source.base.public,
            "adapter_sha256": source.adapter.sha256,
            "round": source.round,
            "differences": made.differences,
            "warnings": made.warnings,
            "files": listing(aside),
        }
        (aside / RECORD).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    pushed = ""
    if wanted.repository:
        say(f"pushing to {wanted.repository}")
        message = f"{wanted.to} of {source.adapter.sha256[:12]} by fedgrpo {__version__}"
        pushed = push(folder, wanted.repository, public=wanted.public, message=message)
    return {"export": str(folder), "pushed": pushed or None, "compared": made.told, **facts}


def _check(wanted: Wanted) -> None:
    """Find out what is missing before anything is loaded."""
    check_jinja()
    if wanted.repository:
        check_push(wanted.repository)
    if wanted.to == "adapter":
        return
    missing = [name for name in HEAVY if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"--to {wanted.to} loads the model and needs {', '.join(missing)}: pip install 'fedgrpo[train,export]'. "
            "--to adapter needs none of it."
        )
    if wanted.to == "gguf" and importlib.util.find_spec("gguf") is None:
        raise ConfigError("--to gguf needs the package gguf: pip install 'fedgrpo[export]'.")
    if wanted.kind in QUANTISED:
        quantizer()


def _adapter(source: Source, wanted: Wanted, folder: Path, say: Say) -> Made:
    say("writing the adapter in PEFT's format")
    found, rank, warnings = write_adapter(source.adapter, source.base, folder)
    told = f"largest difference {found:.1e}, relative to the layer's largest change"
    return Made({"change of a layer's weights, file against adapter": told}, {"weights": found}, warnings, rank=rank)


def _merged(source: Source, wanted: Wanted, folder: Path, say: Say) -> Made:
    from .merge import merge, write_merged

    merged = merge(source, wanted.model, say)
    sum_difference = merged.difference
    written = write_merged(merged, folder, wanted.kind, say)
    return Made(
        {
            "merged in float32 against base model and adapter": str(sum_difference),
            f"read back as {wanted.kind} against merged in float32": str(written),
        },
        {"merged": sum_difference.as_json(), "read_back": written.as_json()},
        quantized_base(source),
    )


def quantized_base(source: Source) -> list[str]:
    """A warning where the clients of a simulation trained on a base with fewer bits than the one merged into."""
    bits = source.config.backend.quantization if source.config else "none"
    if bits == "none":
        return []
    return [
        f"The adapter was trained on the base model in {bits}; it is merged into, and compared with, the base as it is "
        "published. What the training made up for of the quantisation's error is not needed there: evaluate the result."
    ]


def _gguf(source: Source, wanted: Wanted, folder: Path, say: Say) -> Made:
    from .gguf_check import check_logits, check_tokens
    from .gguf_file import check_architecture, write_gguf
    from .gguf_vocabulary import vocabulary
    from .merge import EXACT, ROUNDED, merge

    merged = merge(source, wanted.model, say)
    config: Any = merged.model.config
    check_architecture(config)
    words = vocabulary(merged.tokenizer, config.vocab_size)
    name = f"{source.base.public.rpartition('/')[2]}-fedgrpo"
    path = folder / f"{name}-{wanted.kind}.gguf"
    first = folder / "whole.gguf" if wanted.kind in QUANTISED else path
    say(f"writing GGUF ({'f16' if wanted.kind == 'f16' else 'f32'})")
    write_gguf(merged.model, words, first, name=name, half=wanted.kind == "f16")
    del merged.model
    if wanted.kind in QUANTISED:
        say(f"quantising to {wanted.kind}")
        quantize(quantizer(), first, path, wanted.kind)
        first.unlink()
    say("reading it back")
    tokens = check_tokens(path, merged.tokenizer)
    found = check_logits(path, config, merged.prompts, merged.answers)
    limit = {"f32": found.logits <= EXACT, "f16": found.relative <= ROUNDED["float16"]}
    if not limit.get(wanted.kind, found.logits < float("inf")):
        raise RunError(f"The GGUF file as {wanted.kind} differs from the merged model by more than rounding: {found}.")
    return Made(
        {
            "merged in float32 against base model and adapter": str(merged.difference),
            f"GGUF {wanted.kind} read back against merged in float32": str(found),
            "tokenizer read back": f"the same {tokens} tokens on the probes",
        },
        {"merged": merged.difference.as_json(), "read_back": found.as_json(), "tokens_compared": tokens},
        [*quantized_base(source), *words.warnings],
        file=path.name,
    )
