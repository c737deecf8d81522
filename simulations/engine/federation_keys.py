"""Identities and the manifest of a simulated federation, made once per run folder and kept there."""

from __future__ import annotations

from pathlib import Path
from tempfile import gettempdir

from ...client.learner.masking.masker import Masker
from ...client.learner.masking.session import Sessions
from ...client.learner.service.ledger import Ledger
from ...client.organisation.policy_settings import Policy
from ...common.identity.keys import Identity
from ...common.identity.manifest import Manifest, Member
from ...common.settings.run_config import RunConfig
from ...server.run.layout import RunFolder

IDENTITY, LEDGER = "identity.pem", "ledger.jsonl"


def own_folder(config: RunConfig, name: str) -> Path:
    """Return the folder for a simulated client's own files."""
    run = config.output.run
    base = Path(config.output.dir).expanduser() / run if run else Path(gettempdir()) / "fedgrpo-clients"
    return base / "clients" / name


def prepare_manifest(config: RunConfig, names: tuple[str, ...]) -> Path:
    """Make the identities of simulated clients and the manifest that lists them, and return the manifest's path.

    A run that is resumed keeps those it began with.

    Raises:
        ConfigError: there are too few or too many clients for a federation with secure aggregation.
    """
    path = RunFolder(own_folder(config, "").parent).manifest
    if not path.exists():
        members: list[Member] = []
        for name in names:
            key = own_folder(config, name) / IDENTITY
            identity = Identity.read(key) if key.exists() else Identity.generate()
            if not key.exists():
                identity.write(key)
            members.append(Member(name, identity.public))
        server = Identity.generate()
        Manifest(federation="simulation", server_key=server.public, members=tuple(members)).write(path)
    return path


def simulated_masker(config: RunConfig, name: str) -> Masker:
    """Return a simulated client's part in sums."""
    folder = own_folder(config, name)
    manifest = Manifest.read(RunFolder(folder.parent.parent).manifest)
    return Masker(
        name=name,
        identity=Identity.read(folder / IDENTITY),
        manifest=manifest,
        sessions=Sessions(folder / "sums"),
        ledger=Ledger(folder / LEDGER, Policy()),
        min_members=manifest.min_members,
    )
