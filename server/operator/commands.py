"""The commands of the operator: `fedgrpo server ...`."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ...common.cli import keys as key_files
from ...common.cli.options import Format, FormatOption, say
from ...common.errors import ConfigError, RunError
from ...common.settings.run_config import RunConfig, load_scenario, parse_override

server = typer.Typer(
    help="Run a federation's server: set up, start, submit, monitor and resume runs.", no_args_is_help=True
)
FolderArgument = Annotated[Path, typer.Argument(help="The operator's folder.")]
HostOption = Annotated[list[str] | None, typer.Option("--host", help="Name or address clients connect to; repeatable.")]


@server.command("init")
def init(
    folder: FolderArgument,
    host: HostOption = None,
    port: Annotated[int, typer.Option(help="Port of the gateway, which the network sees.")] = 8000,
    superlink_port: Annotated[int, typer.Option(help="Port of the SuperLink on 127.0.0.1.")] = 18000,
    bind: Annotated[str, typer.Option(help="Address the gateway listens on.")] = "0.0.0.0",
    output: FormatOption = Format.text,
) -> None:
    """Create an operator's folder: settings, the federation's CA, the server's certificate and identity, a secret.

    [bold]Examples[/bold]

      fedgrpo server init federation --host fed.example.org --port 8000
      fedgrpo server init rehearsal --host 127.0.0.1 --bind 127.0.0.1
    """
    from .server_folder import Gateway, ServerFolder, ServerSettings, SuperLink, names_or_default

    gateway = Gateway(hosts=names_or_default(host or []), bind=bind, port=port)
    made = ServerFolder.create(folder, ServerSettings(gateway=gateway, superlink=SuperLink(port=superlink_port)))
    certificate = made.keys / "ca.crt"
    public = made.identity.with_name(made.identity.name + ".pub")
    found = {"folder": str(made.path), "ca": str(certificate), "fingerprint": key_files.fingerprint(certificate)}
    found |= {"identity": str(public)}
    if output is Format.json:
        print(json.dumps(found))
        return
    print(
        f"Made {made.path}.\n"
        f"Give every organisation {certificate}; its fingerprint, to compare over another channel, is\n"
        f"  {found['fingerprint']}\n"
        f"The server's identity key, for the federation's manifest, is {public}\n"
        f"Register the key each of them sends you: fedgrpo keys register {folder} NAME.key.pub\n"
        f"Start the server: fedgrpo server up {folder}"
    )


@server.command("up")
def up(folder: FolderArgument) -> None:
    """Run SuperLink, SuperExec and gateway, and restart what dies. Ctrl-C ends them.

    Only the gateway's port is open to the network, and only Flower's fleet API is behind it. Registered nodes and runs
    survive a restart.

    [bold]Examples[/bold]

      fedgrpo server up federation
      fedgrpo server up /srv/fedgrpo/federation
    """
    from .processes import run_server
    from .server_folder import ServerFolder

    made = ServerFolder.read(folder)
    say(f"gateway on {made.settings.gateway.bind}:{made.settings.gateway.port}, logs in {made.logs}")
    run_server(made, say)


@server.command("bundle")
def bundle(
    fab: Annotated[
        Path | None, typer.Argument(help="A bundle that `flwr build` made; without one, what `submit` submits.")
    ] = None,
    output: FormatOption = Format.text,
) -> None:
    """Print the SHA-256 of the app bundle that runs are submitted with: organisations compare it with theirs.

    An organisation with the same fedgrpo accepts it without a setting; any other needs it in its policy.app-sha256.
    Tell it to them over another channel than this server.

    [bold]Examples[/bold]

      fedgrpo server bundle
      fedgrpo server bundle fedgrpo.fedgrpo.0-2-0.5e1a2b3c.fab
    """
    from ...common.settings.bundle import installed_sha256

    sha256 = hashlib.sha256(fab.read_bytes()).hexdigest() if fab else installed_sha256()
    if output is Format.json:
        print(json.dumps({"app_sha256": sha256}))
    else:
        print(sha256)


@server.command("submit")
def submit(
    folder: FolderArgument,
    scenario: Annotated[Path, typer.Argument(help="The run's settings: a scenario .toml.")],
    run: Annotated[str | None, typer.Option(help="Name of the run's folder; default: scenario and time.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any setting: --set grpo.beta=0.04.")] = None,
    output: FormatOption = Format.text,
) -> None:
    """Run a federation to its end: wait for clients, follow the rounds, resume after a crash of SuperLink or ServerApp.

    The exit status is 0 only if every round was committed. Ctrl-C detaches; the run continues.

    [bold]Examples[/bold]

      fedgrpo server submit federation scenario.toml
      fedgrpo server submit federation scenario.toml --run pilot --set federation.rounds=3
    """
    from .runs import submit as play
    from .server_folder import ServerFolder

    config = load_scenario(scenario)
    config = config.with_values(dict(parse_override(text) for text in settings or []))
    name = run or f"{scenario.stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    _check_name(config, name)
    try:
        found = play(ServerFolder.read(folder), config, name, say)
    except KeyboardInterrupt:
        say(f"{name} goes on without this command: fedgrpo server status {folder}, fedgrpo server stop {folder} {name}")
        raise
    _show(found, folder, output)


@server.command("resume")
def resume(
    folder: FolderArgument,
    run: Annotated[str, typer.Argument(help="Name of the run.")],
    output: FormatOption = Format.text,
) -> None:
    """Resume an interrupted run from its last committed round, with its own settings.

    [bold]Examples[/bold]

      fedgrpo server resume federation pilot
      fedgrpo server resume /srv/fedgrpo/federation pilot
    """
    from .runs import resume as play
    from .server_folder import ServerFolder

    _show(play(ServerFolder.read(folder), run, say), folder, output)


@server.command("stop")
def stop(folder: FolderArgument, run: Annotated[str, typer.Argument(help="Name of the run.")]) -> None:
    """Stop a run. Committed rounds are safe; `resume` continues from them.

    [bold]Examples[/bold]

      fedgrpo server stop federation pilot
      fedgrpo server stop /srv/fedgrpo/federation pilot
    """
    from .runs import stop as end
    from .server_folder import ServerFolder

    end(ServerFolder.read(folder), run)
    print(f"Stopped {run}. Go on with it: fedgrpo server resume {folder} {run}")


@server.command("status")
def status(folder: FolderArgument, output: FormatOption = Format.text) -> None:
    """Show the runs with their progress, and the nodes with their last heartbeat.

    [bold]Examples[/bold]

      fedgrpo server status federation
      fedgrpo server status federation --format json
    """
    from ..run.status import RunStatus
    from .flwr_cli import Flower
    from .server_folder import ServerFolder
    from .status_view import print_status

    made = ServerFolder.read(folder)
    runs = [RunStatus.read(made.runs / name) for name in made.run_names()]
    try:
        nodes, trouble = Flower(made).nodes(), ""
    except RunError as error:  # the runs are worth showing also while the SuperLink is down
        nodes, trouble = [], str(error)
    if output is Format.json:
        print(json.dumps({"runs": [asdict(run) for run in runs], "nodes": nodes, "superlink": trouble or "up"}))
    else:
        print_status(runs, nodes, trouble)


@server.command("gateway", hidden=True)
def gateway(folder: FolderArgument) -> None:
    """Run only the gateway, as `fedgrpo server up` and the systemd unit do.

    [bold]Examples[/bold]

      fedgrpo server gateway federation
      fedgrpo server gateway /srv/fedgrpo/federation
    """
    from .connections import Limits
    from .gateway import gateway as application
    from .gateway import serve
    from .server_folder import ServerFolder

    made = ServerFolder.read(folder)
    settings, where = made.settings.gateway, made.keys
    app = application(f"https://{made.superlink}", where / "ca.crt", int(settings.max_body_mb * 1e6))
    limits = Limits(total=settings.max_connections, per_address=settings.max_connections_per_address)
    serve(app, settings.bind, settings.port, where / "server.pem", where / "server.key", limits=limits)


def _check_name(config: RunConfig, name: str) -> None:
    from ..main import run_folder

    if "/" in name:
        raise ConfigError(f"--run {name}: a run has a plain name, its folder stands in the operator's folder.")
    run_folder(config.with_values({"output.run": name}))


def _show(found: object, folder: Path, output: Format) -> None:
    from ...common.settings.bundle import installed_sha256
    from ..run.status import RunStatus, result_line
    from .server_folder import ServerFolder

    assert isinstance(found, RunStatus)
    run_dir = ServerFolder.read(folder).runs / found.name
    if output is Format.json:
        print(json.dumps({**asdict(found), "run_dir": str(run_dir), "app_sha256": installed_sha256()}))
    else:
        print(f"{found.name}: {found.round} of {found.rounds} rounds, {found.state}. {result_line(run_dir)}")
        print(f"Adapters and journal: {run_dir}. With fedgrpo[report] installed: fedgrpo report {run_dir}")
