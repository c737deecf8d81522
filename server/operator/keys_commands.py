"""The commands about keys: `fedgrpo keys ...`."""
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ...common.cli import keys as key_files
from ...common.cli.options import Format, FormatOption
from ...common.errors import ConfigError
from ...common.identity.keys import Identity
from .commands import FolderArgument, HostOption

keys = typer.Typer(
    help="Certificates and keys: the federation's CA, the server's certificate, nodes' keys, identities.",
    no_args_is_help=True,
)


@keys.command("ca")
def ca(folder: Annotated[Path, typer.Argument(help="Folder for ca.crt and ca.key.")]) -> None:
    """Make a federation's CA. (`fedgrpo server init` does.)

    [bold]Examples[/bold]

      fedgrpo keys ca federation/keys
      fedgrpo keys ca /srv/fedgrpo/federation/keys
    """
    certificate = key_files.make_authority(folder)
    print(f"Made {certificate}, fingerprint {key_files.fingerprint(certificate)}")


@keys.command("server")
def server_certificate(
    folder: Annotated[Path, typer.Argument(help="Folder with ca.crt and ca.key.")], host: HostOption = None
) -> None:
    """Make the server's certificate, valid 397 days, for the names clients connect to. (`fedgrpo server init` does.)

    [bold]Examples[/bold]

      fedgrpo keys server federation/keys --host fed.example.org --host 192.0.2.7
      fedgrpo keys server federation/keys
    """
    print(f"Made {key_files.make_server(folder, host or [])}")


@keys.command("node")
def node(
    path: Annotated[Path, typer.Argument(help="The private key to write; NAME.pub is written beside it.")],
) -> None:
    """Make a node's identity. The organisation keeps NAME and sends NAME.pub to the operator.

    [bold]Examples[/bold]

      fedgrpo keys node clinic-a
      fedgrpo keys node /srv/clinic/clinic-a.key
    """
    public = key_files.make_node(path)
    print(
        f"Made {path} (keep it) and {public} (send it to the operator), fingerprint\n  {key_files.fingerprint(public)}"
    )


@keys.command("identity")
def identity(
    path: Annotated[Path, typer.Argument(help="The private key to write; its public half goes to FILE.pub.")],
    output: FormatOption = Format.text,
) -> None:
    """Make an identity: an Ed25519 key that signs for an organisation or the server. FILE.pub is for the manifest.

    [bold]Examples[/bold]

      fedgrpo keys identity clinic-a.identity
      fedgrpo keys identity federation/keys/server.identity
    """
    public = Identity.generate().write(path)
    found = {"private": str(path), "public": str(public), "fingerprint": key_files.fingerprint(public)}
    if output is Format.json:
        print(json.dumps(found))
        return
    print(
        f"Made {path} (keep it) and {public} (send it to who writes the manifest), fingerprint\n"
        f"  {found['fingerprint']}"
    )


@keys.command("register")
def register(
    folder: FolderArgument,
    public_key: Annotated[Path, typer.Argument(help="The NAME.pub an organisation sent.")],
    name: Annotated[
        str | None, typer.Option(help="The organisation's name, which it must join under; default: the file's.")
    ] = None,
) -> None:
    """Let a node take part. The server must be up.

    [bold]Examples[/bold]

      fedgrpo keys register federation clinic-a.key.pub
      fedgrpo keys register federation sent.pub --name clinic-a
    """
    from ..federation.intake import NAME
    from .flwr_cli import Flower
    from .server_folder import ServerFolder

    name = name or public_key.name.removesuffix(".pub").removesuffix(".key")
    if not NAME.fullmatch(name):
        raise ConfigError(f"--name {name!r} is not a valid organisation name: use letters, digits, dots and hyphens.")
    number = Flower(ServerFolder.read(folder)).register(public_key.resolve(), name)
    print(
        f"Registered {name} as node {number}. Compare the fingerprint with the organisation over another channel:\n"
        f"  {key_files.fingerprint(public_key)}\n"
        f"If it is another: fedgrpo keys unregister {folder} {number}"
    )


@keys.command("unregister")
def unregister(
    folder: FolderArgument, node_id: Annotated[int, typer.Argument(help="As server status shows it.")]
) -> None:
    """Let a node take part no longer. The server must be up.

    [bold]Examples[/bold]

      fedgrpo keys unregister federation 1234567890      the number that `server status` shows
      fedgrpo keys unregister /srv/fedgrpo/federation 1234567890
    """
    from .flwr_cli import Flower
    from .server_folder import ServerFolder

    Flower(ServerFolder.read(folder)).unregister(node_id)
    print(f"Node {node_id} takes part no longer.")


@keys.command("show")
def show(path: Annotated[Path, typer.Argument(help="A certificate, or NAME.pub.")]) -> None:
    """Print the fingerprint of a certificate or public key, to compare over another channel.

    [bold]Examples[/bold]

      fedgrpo keys show ca.crt
      fedgrpo keys show clinic-a.key.pub
    """
    print(key_files.fingerprint(path))
