"""What `fedgrpo client up` runs: the learner, then Flower's SuperNode."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Event

import httpx

from ...common.cli.ports import free_ports
from ...common.cli.service import Service
from ...common.cli.supervisor import environment, supervise, tool
from ...common.storage.atomic import make_private_folder
from ..organisation.settings import OrganisationFile
from .preflight import check_connection

LEARNER_TIMEOUT_S = 600.0
HINTS = {
    "[code: 2004]": "the server does not take this node. Either it was online until a moment ago, and Flower holds its "
    "place for some 70 s; or the operator has not registered its key: send them {key}.pub, they run "
    "fedgrpo keys register FOLDER {file}.pub --name {name}",
}
ADVICE = {
    "[code: 2001]": "this server wants a registered key. Set flower.key to the one made for this node.",
    "CERTIFICATE_VERIFY_FAILED": "the server's certificate is not of the CA in flower.root-certificates, or not for "
    "the host in flower.superlink. Ask the operator for the right ca.crt and compare: fedgrpo keys show ca.crt",
    "Exit Code: 606": "server and client have different versions of Flower. Install the fedgrpo the operator has.",
}

REFUSED = "The server's app bundle"
ANNOUNCEMENTS = {
    "SuperNode ID:": "connected to {superlink}",
    "Connection attempt failed": "no connection to {superlink}; reconnecting",
    "Connection successful after": "connected to {superlink}",
    REFUSED: "refused a run: its app bundle is not one that policy.app-sha256 accepts. The log says which: {log}",
}
"""Words in Flower's log -> what they mean for the organisation."""


def run_client(
    organisation: OrganisationFile, say: Callable[[str], None], *, dry_run: bool = False, stopped: Event | None = None
) -> None:
    """Run the organisation's learner and SuperNode until a signal ends them.

    Raises:
        ConfigError: the file's [flower] section is incomplete or wrong, or this client is up already.
        RunError: a process cannot run; says what to do.
    """
    check_connection(organisation)
    make_private_folder(organisation.folder)
    services = [learner_service(organisation), supernode_service(organisation, dry_run=dry_run)]
    when_up = f"SuperNode started; connecting to {organisation.settings.flower.superlink}"
    supervise(services, organisation.folder / ".client.lock", say, stopped, when_up=when_up)


def learner_service(organisation: OrganisationFile) -> Service:
    """Return the learner's process, in its own environment if the organisation's file names one."""
    own = organisation.settings.learner.python
    python = str(organisation.path(own)) if own else sys.executable
    command = [python, "-m", "fedgrpo.common.cli.main", "learner", str(organisation.file)]
    hopeless = {"fedgrpo: ": f"`fedgrpo client check {organisation.file}` says more."}
    log = organisation.folder / "logs" / "learner.log"
    ready = lambda: bool(learner_status(organisation.socket).get("ready"))  # noqa: E731
    return Service(
        "learner",
        command,
        log,
        {},
        ready,
        ready_timeout_s=LEARNER_TIMEOUT_S,
        hopeless=hopeless,
        loading="loading data, rewards and model",
    )


def supernode_service(organisation: OrganisationFile, *, dry_run: bool) -> Service:
    """Flower's SuperNode, whose ClientApp finds the organisation's file through the node's configuration."""
    flower = organisation.settings.flower
    node_config = f"config-path={json.dumps(str(organisation.file))}" + " dry-run=true" * dry_run
    (port,) = free_ports(1)
    tool("flower-supernode")  # or the extra that is missing is named
    command = [sys.executable, "-m", "fedgrpo.common.cli.main", "client", "supernode"]
    command += ["--superlink", flower.superlink, "--port", str(port)]
    command += ["--root-certificates", str(organisation.path(flower.root_certificates))]
    command += ["--auth-supernode-private-key", str(organisation.path(flower.key)), "--node-config", node_config]
    names = {
        "key": organisation.path(flower.key),
        "file": organisation.path(flower.key).name,
        "name": organisation.name,
    }
    advice = {mark: text.format(**names) for mark, text in ADVICE.items()}
    hints = {mark: text.format(**names) for mark, text in HINTS.items()}
    log = organisation.folder / "logs" / "supernode.log"
    env = {**environment(), "FLWR_HOME": str(organisation.folder / "flwr")}
    return Service(
        "SuperNode",
        command,
        log,
        env,
        hopeless=advice,
        hints=hints,
        announcements={mark: text.format(superlink=flower.superlink, log=log) for mark, text in ANNOUNCEMENTS.items()},
    )


def learner_status(socket: Path) -> dict[str, object]:
    """Return the learner's status; empty if it does not answer."""
    try:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), timeout=5) as http:
            return dict(http.get("http://learner/v1/status").json())
    except (httpx.HTTPError, OSError, ValueError):
        return {}
