"""What `fedgrpo server up` runs: SuperLink, SuperExec, gateway."""

from __future__ import annotations

import sys
from collections.abc import Callable
from threading import Event

from ...common.cli.ports import check_ports, listens
from ...common.cli.service import Service
from ...common.cli.supervisor import environment, supervise, tool
from .server_folder import ServerFolder


def run_server(folder: ServerFolder, say: Callable[[str], None], stopped: Event | None = None) -> None:
    """Run the operator's processes until a signal ends them.

    The SuperLink listens on 127.0.0.1 with TLS and node authentication, and hands ServerApps to nobody but the
    SuperExec that shares its secret; the gateway is all that the network sees.

    Raises:
        ConfigError: a port is taken, or this server is up already.
        RunError: a process cannot run.
    """
    gateway, superlink = folder.settings.gateway, folder.settings.superlink
    folder.logs.mkdir(exist_ok=True, mode=0o700)
    ports = [("superlink.port", "127.0.0.1", superlink.port), ("gateway.port", gateway.bind, gateway.port)]
    services = [_superlink(folder), _superexec(folder), _gateway(folder)]
    supervise(services, folder.path / ".server.lock", say, stopped, before=lambda: check_ports(ports))


def _superlink(folder: ServerFolder) -> Service:
    keys = folder.keys
    tls = ["--ssl-ca-certfile", keys / "ca.crt", "--ssl-certfile", keys / "server.pem"]
    tls += ["--ssl-keyfile", keys / "server.key"]
    secret = ["--isolation", "process", "--superexec-auth-secret-file", keys / "superexec.secret"]
    place = ["--host", "127.0.0.1", "--port", folder.settings.superlink.port, "--database", folder.database]
    command = [tool("flower-superlink"), *tls, *secret, *place, "--enable-supernode-auth"]
    return Service(
        "SuperLink",
        [str(word) for word in command],
        folder.logs / "superlink.log",
        _environment(folder),
        ready=lambda: listens(folder.settings.superlink.port),
    )


def _superexec(folder: ServerFolder) -> Service:
    keys = folder.keys
    command = [tool("flower-superexec"), "--runtime-api-address", folder.superlink]
    command += ["--root-certificates", str(keys / "ca.crt")]
    command += ["--superexec-auth-secret-file", str(keys / "superexec.secret")]
    return Service("SuperExec", command, folder.logs / "serverapp.log", _environment(folder))


def _gateway(folder: ServerFolder) -> Service:
    command = [sys.executable, "-m", "fedgrpo.common.cli.main", "server", "gateway", str(folder.path)]
    settings, log = folder.settings.gateway, folder.logs / "gateway.log"
    ready = lambda: listens(settings.port, settings.bind)  # noqa: E731
    return Service("gateway", command, log, _environment(folder), ready=ready)


def _environment(folder: ServerFolder) -> dict[str, str]:
    return {**environment(), "FLWR_HOME": str(folder.flower_home)}
