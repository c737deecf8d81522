"""The commands `fedgrpo dashboard` and `fedgrpo watch`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from ...common.cli.options import Format, FormatOption
from ...server.run.completion import complete_run

PORT = 8017


def dashboard(
    folder: Annotated[
        Path,
        typer.Argument(help="A folder of runs: a simulation's --out, an operator's, a study's, or one run."),
    ] = Path("runs"),
    port: Annotated[int, typer.Option(help="Port; 0 takes any that is free.", min=0, max=65535)] = PORT,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Beyond this machine, a token is needed, which is printed.")
    ] = "127.0.0.1",
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Watch runs as they happen, and look at finished ones, on a local page.

    The page needs no network, and shows what is in the run folders. It changes nothing.

    [bold]Examples[/bold]

      fedgrpo dashboard
      fedgrpo dashboard federation/runs --port 9000
    """
    from ...common.web.serve import listen, serve
    from .app import dashboard_app
    from .runs_folder import RunsFolder

    runs = RunsFolder(folder)
    count = len(runs.names())
    address = listen(host, port)
    print(f"{count} runs in {folder}: {address.url}\nCtrl-C ends it.", file=sys.stderr, flush=True)
    if open_page:
        typer.launch(address.url)
    serve(dashboard_app(runs, token=address.token), address)


def watch(
    folder: Annotated[Path, typer.Argument(help="A run folder.", autocompletion=complete_run)],
    output: FormatOption = Format.text,
) -> None:
    """Watch one run in the terminal until it ends, whichever process works on it.

    Without a terminal, prints a line for each event, those so far first; with --format json each as a JSON object.

    [bold]Examples[/bold]

      fedgrpo watch runs/builtin-20260101-120000
      fedgrpo watch federation/runs/first --format json
    """
    from .terminal import follow_events, watch_run

    if output is Format.json:
        for event in follow_events(folder):
            print(json.dumps(event), flush=True)
    else:
        watch_run(folder)
