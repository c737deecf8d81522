"""The command `fedgrpo audit membership`."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ...common.cli.options import Format, FormatOption, say
from ...common.errors import ConfigError
from ...common.settings.run_config import parse_override
from ...server.run.completion import complete_run


def membership(
    target: Annotated[
        Path,
        typer.Argument(
            help="A simulated run, one of its adapters, or with --organisation any PEFT adapter.",
            autocompletion=complete_run,
        ),
    ],
    organisation: Annotated[
        Path | None, typer.Option(help="The organisation's file: its prompts are audited, and stay here.")
    ] = None,
    client: Annotated[int | None, typer.Option(min=0, help="One simulated client; default: all together.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Completions of each prompt by each model.")] = 8,
    limit: Annotated[int, typer.Option(min=20, help="Prompts of each kind, at most.")] = 1000,
    epsilon: Annotated[
        float | None, typer.Option(min=0.0, help="Epsilon to show beside the bound; default: what the clients charged.")
    ] = None,
    delta: Annotated[float, typer.Option(min=0.0, max=0.5, help="Delta of the bound on epsilon.")] = 1e-5,
    seed: Annotated[int, typer.Option(help="Seed of the audit: which prompts, which random numbers.")] = 0,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any setting: --set backend.sampler=vllm. May be repeated.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the result; default: the run's, or the file's.")] = None,
    output: FormatOption = Format.text,
) -> None:
    """Test whether an adapter gives away which prompts it was trained on.

    Compares prompts that were trained on with others of the same kind: rewards, likelihoods, both against the base
    model, and canaries. Writes membership.json and membership.svg, without prompts. What a result does and does not
    show: docs/membership.md.

    [bold]Examples[/bold]

      fedgrpo audit membership runs/builtin-20260101-120000
      fedgrpo audit membership runs/NAME/adapters/0003 --client 0
      fedgrpo audit membership runs/NAME --epsilon 8 --delta 1e-5
      fedgrpo audit membership PEFT_FOLDER --organisation clinic.toml
    """
    from .files import write
    from .session import Asked, audit
    from .show import show

    if organisation is not None and client is not None:
        raise ConfigError("--client names a simulated client, and --organisation is a real one. Give one of them.")
    asked = Asked(
        organisation=organisation,
        client=client,
        samples=samples,
        limit=limit,
        seed=seed,
        delta=delta,
        epsilon=epsilon,
    )
    audited = audit(target, asked, dict(parse_override(text) for text in settings or []))
    written = write(audited, target, out, say)
    if output is Format.json:
        print(json.dumps({**audited.as_json(), "files": written}))
    else:
        show(audited, written)
