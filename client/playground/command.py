"""The command `fedgrpo rewards playground`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

PORT = 8018


def playground(
    spec: Annotated[str, typer.Argument(help="A set, functions with weights, or a Python file.")] = "",
    data: Annotated[
        Path | None, typer.Option(help="JSONL with completion, question, answer: a model's samples to look through.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port; 0 takes any that is free.", min=0, max=65535)] = PORT,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Try rewards on a local page, in English or Chinese: what each pays for a completion and why, and the advantages.

    A Python file is read again when it is saved. Nothing leaves this machine.

    [bold]Examples[/bold]

      fedgrpo rewards playground
      fedgrpo rewards playground "correctness,mine.py:brief=0.5" --data samples.jsonl
    """
    from ...common.web.serve import listen, serve
    from .app import playground_app
    from .scoring import Workbench

    bench = Workbench(spec, data)
    address = listen("127.0.0.1", port)
    print(f"The reward playground: {address.url}\nCtrl-C ends it.", file=sys.stderr, flush=True)
    if open_page:
        typer.launch(address.url)
    serve(playground_app(bench), address)
