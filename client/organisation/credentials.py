"""An organisation's place in its federation: the manifest that it pinned, and its own identity key."""

from __future__ import annotations

from dataclasses import dataclass

from ...common.errors import ConfigError
from ...common.identity.keys import Identity
from ...common.identity.manifest import Manifest
from .settings import OrganisationFile


@dataclass(frozen=True, slots=True)
class Credentials:
    """A manifest with the pinned fingerprint, in which this organisation has the key that it holds."""

    name: str
    manifest: Manifest
    identity: Identity


def read_credentials(organisation: OrganisationFile) -> Credentials | None:
    """Return an organisation's credentials; None where its policy neither pins a manifest nor wants secure aggregation.

    Raises:
        ConfigError: manifest, fingerprint and key do not belong together; names the setting and the remedy.
    """
    policy, where = organisation.policy, organisation.file
    if policy.privacy == "none" and not policy.manifest_sha256:
        return None
    manifest = pinned_manifest(organisation)
    if not manifest.has(organisation.name):
        raise ConfigError(
            f"{where}: organisation.name is {organisation.name}, which is not in the manifest. Its members are "
            f"{', '.join(member.name for member in manifest.members)}."
        )
    if not organisation.settings.federation.identity:
        raise ConfigError(f"{where}: federation.identity is empty. Make a key: fedgrpo keys identity NAME.identity")
    path = organisation.path(organisation.settings.federation.identity)
    identity = Identity.read(path)
    if manifest.key_of(organisation.name) != identity.public:
        raise ConfigError(
            f"{where}: federation.identity is {path}, but the manifest has another key for {organisation.name}. Send "
            f"{path}.pub to who writes the manifest, or put the right key there."
        )
    _check_base_model(organisation, manifest)
    return Credentials(organisation.name, manifest, identity)


def pinned_manifest(organisation: OrganisationFile) -> Manifest:
    """Return the manifest of an organisation, which has the fingerprint that its policy pins.

    Raises:
        ConfigError: it is missing or malformed, or has another fingerprint, or none is pinned.
    """
    where, pinned = organisation.file, organisation.policy.manifest_sha256
    named = organisation.settings.federation.manifest
    if not named:
        raise ConfigError(f"{where}: federation.manifest is empty. Put the federation's manifest.toml there.")
    manifest = Manifest.read(organisation.path(named))
    if not pinned:
        raise ConfigError(
            f"{where}: policy.manifest-sha256 is empty. The fingerprint of {organisation.path(named)} is "
            f"{manifest.sha256}. Compare it with the other members over another channel than the one it came by, then "
            "write it there."
        )
    if manifest.sha256 != pinned:
        raise ConfigError(
            f"{where}: policy.manifest-sha256 is {pinned}, but {organisation.path(named)} has {manifest.sha256}. It is "
            "another manifest than the one you compared: find out why before you pin it."
        )
    return manifest


def _check_base_model(organisation: OrganisationFile, manifest: Manifest) -> None:
    pinned, agreed = organisation.settings.model.sha256, manifest.base_model_sha256
    if agreed and pinned and agreed != pinned:
        raise ConfigError(
            f"{organisation.file}: model.sha256 is {pinned}, but the federation's manifest says {agreed}. Use the "
            "federation's model."
        )
