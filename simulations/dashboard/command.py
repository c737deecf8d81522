"""The commands `fedgrpo dashboard` and `fedgrpo watch`."""

from __future__ import annotations

import functools
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
        typer.Argument(
            help="A folder of runs: a simulation's --out, an operator's, a study's, or one run. Or an organisation's "
            "file, for what has left it."
        ),
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
      fedgrpo dashboard clinic.toml               what has left the organisation
    """
    from ...client.organisation.settings import OrganisationFile
    from ...common.web.serve import listen, serve
    from .app import dashboard_app, organisation_app
    from .egress_view import EgressView
    from .runs_folder import RunsFolder

    if folder.suffix == ".toml":
        organisation = OrganisationFile.read(folder)
        shown = f"What has left {organisation.name}"
        app = functools.partial(organisation_app, EgressView(organisation.egress_record, organisation.name))
    else:
        runs = RunsFolder(folder)
        shown, app = f"{len(runs.names())} runs in {folder}", functools.partial(dashboard_app, runs)
    address = listen(host, port)
    print(f"{shown}: {address.url}\nCtrl-C ends it.", file=sys.stderr, flush=True)
    if open_page:
        typer.launch(address.url)
    serve(app(token=address.token), address)


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
