"""`fedgrpo export`."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ...common.cli.options import Format, FormatOption, say
from ...common.errors import ConfigError
from ...server.run.completion import complete_run
from .push import NAME
from .source import Source, locate


class To(StrEnum):
    """What an adapter is made into."""

    adapter = "adapter"
    merged = "merged"
    gguf = "gguf"


class Type(StrEnum):
    """GGUF's types of weights."""

    f32 = "f32"
    f16 = "f16"
    q8_0 = "q8_0"
    q5_k_m = "q5_k_m"
    q4_k_m = "q4_k_m"


class Dtype(StrEnum):
    """Types of a merged model's weights."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def export(
    target: Annotated[
        Path,
        typer.Argument(
            help="A run folder (simulate's or the server's), or one adapter's folder.", autocompletion=complete_run
        ),
    ],
    to: Annotated[
        To, typer.Option(help="adapter: PEFT, needs no torch. merged: a whole model. gguf: for llama.cpp.")
    ] = To.adapter,
    type_: Annotated[
        Type | None, typer.Option("--type", help="With --to gguf; default f16. q types need llama-quantize on PATH.")
    ] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="With --to merged; default: the run's model.dtype.")] = None,
    number: Annotated[int | None, typer.Option("--round", help="Round; default: the last committed one.")] = None,
    best: Annotated[bool, typer.Option("--best", help="The round with the highest held-out accuracy.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder to create; default: exports/RUN-ROUND-FORMAT.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export in that folder.")] = False,
    model: Annotated[str, typer.Option(help="Where the base model is, if not where the run had it.")] = "",
    base_model: Annotated[str, typer.Option(help="The base model's public name, where the run used a folder.")] = "",
    repository: Annotated[
        str, typer.Option("--push", help="ORG/NAME on the Hub; the token is taken from HF_TOKEN.")
    ] = "",
    public: Annotated[bool, typer.Option("--public", help="With --push: for all to see; default: private.")] = False,
    output: FormatOption = Format.text,
) -> None:
    """Export a trained adapter (PEFT, merged model or GGUF), check it against the training, and write its model card.

    [bold]Examples[/bold]

      fedgrpo export runs/builtin-20260101-120000                      PEFT folder of the last round
      fedgrpo export runs/NAME --best --to merged --dtype bfloat16     base model and adapter in one
      fedgrpo export runs/NAME/adapters/0003 --to gguf --type q4_k_m   for llama.cpp
      fedgrpo export runs/NAME --push my-org/my-model                  to the Hub, private; token from HF_TOKEN
    """
    from .steps import Wanted, export_to

    if type_ and to is not To.gguf:
        raise ConfigError("--type is for --to gguf. A merged model's is --dtype.")
    if dtype and to is not To.merged:
        raise ConfigError("--dtype is for --to merged. GGUF's is --type; an adapter is float32 always.")
    if public and not repository:
        raise ConfigError("--public says how to --push, and there is no --push.")
    if base_model and not NAME.fullmatch(base_model):
        raise ConfigError(f"--base-model {base_model} is not of the form ORG/NAME. Where it lies is --model.")
    source = locate(target, number, best, base_model)
    kind = {To.adapter: "", To.merged: str(dtype or _run_dtype(source)), To.gguf: str(type_ or Type.f16)}[to]
    wanted = Wanted(to=to, kind=kind, model=model, repository=repository, public=public)
    result = export_to(out or _default_folder(source, wanted.to, kind), source, wanted, force=force, say=say)
    if output is Format.json:
        print(json.dumps(result))
        return
    for name, told in result["compared"].items():
        print(f"{name}: {told}")
    for warning in result["warnings"]:
        print(f"Note: {warning}")
    print(f"Wrote {result['export']}" + (f", pushed to {result['pushed']}" if result["pushed"] else ""))


def _run_dtype(source: Source) -> str:
    if source.config is None or source.config.model.dtype == "auto":
        return Dtype.float32
    return source.config.model.dtype


def _default_folder(source: Source, to: str, kind: str) -> Path:
    run = source.run.folder.resolve().name if source.run else "adapter"
    parts = [run, f"{source.round:04d}" if source.round else source.adapter.sha256[:8], to, kind]
    return Path("exports") / "-".join(part for part in parts if part)
