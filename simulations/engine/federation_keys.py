"""Identities and the manifest of a simulated federation, made once per run folder and kept there."""

from __future__ import annotations

import fcntl
from pathlib import Path
from tempfile import gettempdir

from ...client.learner.masking.masker import Masker
from ...client.learner.masking.session import Sessions
from ...client.learner.service.ledger import Ledger
from ...client.organisation.policy_settings import Policy
from ...common.errors import ConfigError
from ...common.identity.keys import Identity
from ...common.identity.manifest import Manifest, Member
from ...common.settings.run_config import RunConfig
from ...server.run.layout import RunFolder

IDENTITY, LEDGER = "identity.pem", "ledger.jsonl"


def own_folder(config: RunConfig, name: str) -> Path:
    """Return the folder for a simulated client's own files."""
    run = config.output.run
    base = Path(config.output.dir).expanduser() / run if run else Path(gettempdir()) / "fedgrpo-clients"
    return RunFolder(base).client(name)


def prepare_manifest(config: RunConfig, names: tuple[str, ...]) -> Path:
    """Make the identities of simulated clients and the manifest that lists them, and return the manifest's path.

    A run that is resumed keeps those it began with. On Ray nobody but the clients can make them, so the first does.

    Raises:
        ConfigError: there are too few or too many clients for a federation with secure aggregation.
    """
    if not config.output.run:
        raise ConfigError(
            "privacy.mode is secagg and output.run is empty: server and clients find the manifest in the run's folder. "
            "Give it a name, such as output.run='\"my-run\"'."
        )
    files = RunFolder(own_folder(config, "").parent)
    files.path.mkdir(parents=True, exist_ok=True)
    with (files.path / ".manifest.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not files.manifest.exists():
            members = tuple(Member(name, _identity(own_folder(config, name) / IDENTITY).public) for name in names)
            server = _identity(files.server_identity)
            Manifest(federation="simulation", server_key=server.public, members=members).write(files.manifest)
    return files.manifest


def _identity(path: Path) -> Identity:
    """Return the identity in a file, made if it does not exist."""
    if not path.exists():
        Identity.generate().write(path)
    return Identity.read(path)


def simulated_masker(config: RunConfig, name: str, names: tuple[str, ...]) -> Masker:
    """Return a simulated client's part in sums.

    Args:
        names: of all members, for a manifest that is not there yet.
    """
    folder = own_folder(config, name)
    manifest = Manifest.read(prepare_manifest(config, names))
    return Masker(
        name=name,
        identity=Identity.read(folder / IDENTITY),
        manifest=manifest,
        sessions=Sessions(folder / "sums"),
        ledger=Ledger(folder / LEDGER, Policy()),
        min_members=manifest.min_members,
    )
