"""An operator's folder: keys, settings, Flower's state and the runs.

server.toml   names, ports and limits
keys/         CA, server certificate, the secret that SuperLink and SuperExec share, the server's identity
manifest.toml who belongs to the federation, if it has a manifest
flwr/         Flower's own configuration (FLWR_HOME), which names the connection `fedgrpo`
state.db      the SuperLink's database: registered nodes survive a restart
app/          the app that is submitted: two stubs, no logic
nodes.jsonl   which node is which organisation
submitted/    the settings of each run, and which Flower run plays it
logs/  runs/
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from ...common.bounds import at_least, between
from ...common.cli import keys
from ...common.errors import ConfigError
from ...common.identity.keys import Identity
from ...common.settings import toml
from ...common.settings.bundle import app_files
from ...common.storage.atomic import make_private_folder, write_atomic
from ..federation.roster import read_nodes

CONNECTION = "fedgrpo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """What the network sees."""

    hosts: tuple[str, ...] = ()
    """Names and addresses clients connect to; the certificate holds them."""
    bind: str = "0.0.0.0"
    """Address to listen on."""
    port: int = 8000
    max_body_mb: float = 16.0
    """A longer request is refused. Flower cuts arrays into chunks of 5 MiB."""
    max_connections: int = 1000
    """Connections at the same time; more are closed as they come."""
    max_connections_per_address: int = 100
    """Connections from one address at the same time: of organisations behind one NAT, or of a proxy, all together."""

    def __post_init__(self) -> None:
        between("gateway.port", self.port, 1, 65535, "it is a TCP port")
        at_least("gateway.max-connections", self.max_connections, 1, "a client needs one")
        at_least("gateway.max-connections-per-address", self.max_connections_per_address, 1, "a client needs one")
        at_least("gateway.max-body-mb", self.max_body_mb, 6, "Flower sends chunks of 5 MiB")


@dataclass(frozen=True, slots=True, kw_only=True)
class SuperLink:
    """Flower's SuperLink, which listens on 127.0.0.1 only."""

    port: int = 18000

    def __post_init__(self) -> None:
        between("superlink.port", self.port, 1, 65535, "it is a TCP port")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFolders:
    """Where runs are written."""

    folder: str = "runs"
    """Relative to the operator's folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """All sections of server.toml."""

    gateway: Gateway = field(default_factory=Gateway)
    superlink: SuperLink = field(default_factory=SuperLink)
    runs: RunFolders = field(default_factory=RunFolders)


@dataclass(frozen=True)
class ServerFolder:
    """An operator's folder."""

    path: Path
    settings: ServerSettings

    @classmethod
    def create(cls, path: Path, settings: ServerSettings) -> ServerFolder:
        """Make a new folder with settings, CA, certificate and secret.

        Raises:
            ConfigError: there is one already, or it cannot be written.
        """
        folder = cls(path.expanduser().resolve(), settings)
        comments = {
            f.name: (globals()[type(getattr(settings, f.name)).__name__].__doc__ or "") for f in fields(settings)
        }
        text = "".join(f"# {name}: {about}\n" for name, about in comments.items()) + "\n" + toml.to_toml(settings)
        try:
            make_private_folder(folder.path)
        except OSError as error:
            raise ConfigError(f"Cannot make the folder {folder.path}: {error.strerror}.") from error
        keys.write_new(folder.path / "server.toml", text.encode())
        keys.make_authority(folder.keys)
        keys.make_server(folder.keys, settings.gateway.hosts)
        keys.make_secret(folder.keys / "superexec.secret")
        Identity.generate().write(folder.identity)
        folder._prepare_flower()
        return folder

    @classmethod
    def read(cls, path: Path) -> ServerFolder:
        """Read an operator's folder, and bring Flower's configuration and the app in it up to date.

        Raises:
            ConfigError: it is none, or server.toml is wrong.
        """
        path = path.expanduser().resolve()
        if not (path / "server.toml").is_file():
            raise ConfigError(f"{path} is not a server folder. Create one: fedgrpo server init {path} --host NAME")
        try:
            settings = toml.with_values(ServerSettings(), toml.read_toml(path / "server.toml", "settings"))
        except ConfigError as error:
            raise ConfigError(f"{path / 'server.toml'}: {error}") from error
        folder = cls(path, settings)
        folder._prepare_flower()
        return folder

    @property
    def keys(self) -> Path:
        """CA, certificate, secret."""
        return self.path / "keys"

    @property
    def identity(self) -> Path:
        """Return the server's private identity key, which signs the round log; a folder of an earlier version has
        none (`fedgrpo keys identity` makes one)."""
        return self.keys / "server.identity"

    @property
    def manifest(self) -> Path:
        """Return the federation's manifest, which the operator puts here."""
        return self.path / "manifest.toml"

    @property
    def flower_home(self) -> Path:
        """FLWR_HOME of everything this operator runs."""
        return self.path / "flwr"

    @property
    def app(self) -> Path:
        """Return the folder of the app that is submitted."""
        return self.path / "app"

    @property
    def runs(self) -> Path:
        """Folder of run folders."""
        return self.path / self.settings.runs.folder

    @property
    def logs(self) -> Path:
        """Logs of the processes."""
        return self.path / "logs"

    @property
    def database(self) -> Path:
        """Return the path of the SuperLink's database."""
        return self.path / "state.db"

    @property
    def superlink(self) -> str:
        """Address of the SuperLink on this machine."""
        return f"127.0.0.1:{self.settings.superlink.port}"

    @property
    def nodes_file(self) -> Path:
        """Return the file that maps nodes to organisations: registering a key writes it, every run reads it."""
        return self.path / "nodes.jsonl"

    def node_names(self) -> dict[int, str]:
        """Node id -> organisation."""
        return read_nodes(self.nodes_file)

    def run_names(self) -> list[str]:
        """Return the names of the runs, oldest first."""
        found = [path for path in (self.path / "submitted").glob("*.toml") if (self.runs / path.stem).is_dir()]
        return [path.stem for path in sorted(found, key=lambda path: path.stat().st_mtime)]

    def _prepare_flower(self) -> None:
        """Write what Flower's own commands need: the connection's name and address, and the app."""
        write_app(self.app)
        self.flower_home.mkdir(exist_ok=True, mode=0o700)
        certificate = json.dumps(str(self.keys / "ca.crt"))
        lines = ["[superlink]", f'default = "{CONNECTION}"', "", f"[superlink.{CONNECTION}]"]
        lines += [f'address = "{self.superlink}"', f"root-certificates = {certificate}", ""]
        write_atomic(self.flower_home / "config.toml", "\n".join(lines).encode())


def write_app(folder: Path) -> Path:
    """Write the app of the installed fedgrpo as a folder, which `flwr run` makes the bundle from."""
    for name, content in app_files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / name, content)
    return folder


def names_or_default(hosts: Sequence[str]) -> tuple[str, ...]:
    """Return the hosts of a certificate, by default this machine only."""
    return tuple(hosts) or keys.LOOPBACK
