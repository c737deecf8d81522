"""Flower's SuperNode with our executors: `fedgrpo client supernode`, which `fedgrpo client up` starts too.

A SuperNode whose connection ends by an error logs it and does nothing from then on. This one ends, so that whoever
started it starts it again.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from ...common.cli.supervisor import FLOWER_ENVIRONMENT
from ...common.errors import ConfigError, FedGRPOError
from ...common.flower_private import run_supernode, supernode_settings
from ...common.foreign import safe_logger
from ..organisation.bundle import accepted_bundles
from ..organisation.settings import OrganisationFile
from .executor_folder import make_executors

LOGGER = safe_logger("fedgrpo.client")
FOLDER = "executors"
ENDED = 3
"""Exit status of a SuperNode whose connection has ended by an error."""


def start(options: list[str]) -> None:
    """Run Flower's SuperNode in this process; does not return.

    Args:
        options: those of flower-supernode.

    Raises:
        ConfigError: the executors would be started elsewhere, or cannot be written; the organisation's file is wrong.
    """
    file = _organisation_file(options)
    OrganisationFile.read(file)
    for name, value in FLOWER_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    home = Path(os.environ.get("FLWR_HOME") or Path.home() / ".flwr")
    try:
        os.environ["PATH"] = str(make_executors(home / FOLDER))
    except OSError as error:
        raise ConfigError(
            f"The executors cannot be written to {home / FOLDER}: {error.strerror}. Set FLWR_HOME to a folder of this "
            "account's."
        ) from error
    run_supernode(options, lambda bundle: _accepts(file, bundle))
    LOGGER.error("the SuperNode's connection has ended by the error above; this process ends")
    os._exit(ENDED)  # Flower's threads would keep it


def _organisation_file(options: list[str]) -> Path:
    try:
        isolation, node_config = supernode_settings(options)
    except (ValueError, OSError) as error:
        raise ConfigError(f"--node-config cannot be read: {error}") from error
    if isolation != "subprocess":
        raise ConfigError(
            f"--isolation {isolation} leaves it to another program to execute what the server sends. Leave it out: the "
            "SuperNode then starts fedgrpo's executor, which runs nothing of that."
        )
    if "config-path" not in node_config:
        raise ConfigError(
            "--node-config does not name the organisation's file. Add it: "
            "--node-config 'config-path=\"/path/clinic.toml\"'"
        )
    return Path(str(node_config["config-path"]))


def _accepts(file: Path, bundle: bytes) -> bool:
    """Return whether the organisation's file, as it is now, accepts a bundle."""
    try:
        return hashlib.sha256(bundle).hexdigest() in accepted_bundles(OrganisationFile.read(file).policy)
    except FedGRPOError:
        return False  # the executor says why
