"""The steps of an export, from the request to a finished folder."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...client.learner.models.model_files import TAUGHT
from ...common import __version__
from ...common.errors import ConfigError, RunError
from .card import card, check_jinja
from .output_folder import RECORD, check_free, listing, new_folder
from .peft_folder import write_adapter, write_base
from .push import check_push, push
from .quantize import QUANTISED, quantize, quantizer
from .source import BaseModel, Source

Say = Callable[[str], None]
HEAVY = ("torch", "transformers", "peft")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The request: what to export, and how."""

    to: str
    """`adapter`, `merged` or `gguf`."""
    kind: str = ""
    """Type of the weights: for `merged` a dtype, for `gguf` one of GGUF's types."""
    model: str = ""
    """Folder or name of the base model; empty uses the run's."""
    repository: str = ""
    """Repository to push to; empty does not push."""
    public: bool = False


@dataclass(slots=True)
class Made:
    """What a step wrote, and how far it is from the expected result."""

    comparisons: dict[str, str]
    """For people: what was compared -> the result."""
    differences: dict[str, object]
    warnings: list[str]
    file: str = ""
    rank: int = 0


def export_to(folder: Path, source: Source, request: Wanted, *, force: bool, say: Say) -> dict[str, Any]:
    """Write an export, check it, push it if requested, and return a summary.

    Raises:
        ConfigError: a requirement is missing. Nothing was written.
        RunError: the export failed its check, or could not be pushed. An incomplete export is removed.
    """
    _check(request)
    check_free(folder, force)
    with new_folder(folder, force) as temporary:
        made = {"adapter": _adapter, "merged": _merged, "gguf": _gguf}[request.to](source, request, temporary, say)
        if request.to == "adapter":
            write_base(source.base, temporary, None if request.repository else folder)
        text = card(
            source,
            request.to,
            kind=request.kind,
            file=made.file,
            rank=made.rank,
            repository=request.repository,
            differences=made.comparisons,
            warnings=made.warnings,
        )
        (temporary / "README.md").write_text(text, encoding="utf-8")
        facts = _facts(source, request, made, temporary)
        (temporary / RECORD).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    pushed = ""
    if request.repository:
        say(f"pushing to {request.repository}")
        message = f"{request.to} of {source.adapter.sha256[:12]} by fedgrpo {__version__}"
        pushed = push(folder, request.repository, public=request.public, message=message)
    return {"export": str(folder), "pushed": pushed or None, "compared": made.comparisons, **facts}


def _facts(source: Source, request: Wanted, made: Made, folder: Path) -> dict[str, Any]:
    """Return the record of an export, which is kept beside it."""
    return {
        "to": request.to,
        "type": request.kind,
        "fedgrpo": __version__,
        "base_model": source.base.public,
        "adapter_sha256": source.adapter.sha256,
        "round": source.round,
        "differences": made.differences,
        "warnings": made.warnings,
        "files": listing(folder),
    }


def _check(request: Wanted) -> None:
    """Check all requirements before anything is loaded."""
    check_jinja()
    if request.repository:
        check_push(request.repository)
    if request.to == "adapter":
        return
    missing = [name for name in HEAVY if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"--to {request.to} loads the model and needs {', '.join(missing)}: pip install 'fedgrpo[learner,export]'. "
            "--to adapter does not need them."
        )
    if request.to == "gguf" and importlib.util.find_spec("gguf") is None:
        raise ConfigError("--to gguf needs the package gguf: pip install 'fedgrpo[export]'.")
    if request.kind in QUANTISED:
        quantizer()


def _adapter(source: Source, request: Wanted, folder: Path, say: Say) -> Made:
    say("writing the adapter in PEFT's format")
    largest, rank, warnings = write_adapter(source.adapter, source.base, folder)
    warnings = [*taught_base(source.base, Path(request.model or source.base.name)), *warnings]
    comparison = f"largest difference {largest:.1e}, relative to the layer's largest change"
    return Made(
        {"change of a layer's weights, file against adapter": comparison}, {"weights": largest}, warnings, rank=rank
    )


def _merged(source: Source, request: Wanted, folder: Path, say: Say) -> Made:
    from .merge import merge, write_merged

    merged = merge(source, request.model, say)
    sum_difference = merged.difference
    written = write_merged(merged, folder, request.kind, say)
    return Made(
        {
            "merged in float32 against base model and adapter": str(sum_difference),
            f"read back as {request.kind} against merged in float32": str(written),
        },
        {"merged": sum_difference.as_json(), "read_back": written.as_json()},
        quantized_base(source),
    )


def taught_base(base: BaseModel, folder: Path) -> list[str]:
    """Warn if the adapter's base model was made by fine-tuning: on the model it was made from, the adapter is wrong."""
    if not (folder.expanduser() / TAUGHT).is_file():
        return []
    return [
        "The base model was made by supervised fine-tuning, and the adapter fits that model, not the one it was made "
        f"from. Unless {base.public} is a copy of it, give others the whole model: --to merged, or --to gguf."
    ]


def quantized_base(source: Source) -> list[str]:
    """Warn if the clients of a simulation trained on a quantized base, while the export merges into the full one."""
    bits = source.config.backend.quantization if source.config else "none"
    if bits == "none":
        return []
    return [
        f"The adapter was trained on the base model in {bits}; it is merged into, and compared with, the base as it is "
        "published. The adapter may compensate quantization errors that the full model does not have: evaluate the "
        "result."
    ]


def _gguf(source: Source, request: Wanted, folder: Path, say: Say) -> Made:
    from .gguf_check import check_logits, check_tokens
    from .gguf_file import check_architecture, write_gguf
    from .gguf_vocabulary import vocabulary
    from .merge import EXACT, ROUNDED, merge

    merged = merge(source, request.model, say)
    config: Any = merged.model.config
    check_architecture(config)
    words = vocabulary(merged.tokenizer, config.vocab_size)
    name = f"{source.base.public.rpartition('/')[2]}-fedgrpo"
    path = folder / f"{name}-{request.kind}.gguf"
    first = folder / "whole.gguf" if request.kind in QUANTISED else path
    say(f"writing GGUF ({'f16' if request.kind == 'f16' else 'f32'})")
    write_gguf(merged.model, words, first, name=name, half=request.kind == "f16")
    del merged.model
    if request.kind in QUANTISED:
        say(f"quantizing to {request.kind}")
        quantize(quantizer(), first, path, request.kind)
        first.unlink()
    say("reading it back")
    tokens = check_tokens(path, merged.tokenizer)
    change = check_logits(path, config, merged.prompts, merged.answers)
    limit = {"f32": change.logits <= EXACT, "f16": change.relative <= ROUNDED["float16"]}
    if not limit.get(request.kind, change.logits < float("inf")):
        raise RunError(
            f"The GGUF file as {request.kind} differs from the merged model by more than rounding: {change}."
        )
    return Made(
        {
            "merged in float32 against base model and adapter": str(merged.difference),
            f"GGUF {request.kind} read back against merged in float32": str(change),
            "tokenizer read back": f"the same {tokens} tokens on the probes",
        },
        {"merged": merged.difference.as_json(), "read_back": change.as_json(), "tokens_compared": tokens},
        [*quantized_base(source), *words.warnings],
        file=path.name,
    )
