"""An organisation's own part in sums: its identity, its manifest, and the ledger that signs once."""

from __future__ import annotations

from ....common.errors import PolicyError
from ....common.identity.keys import Identity
from ....common.identity.manifest import Manifest
from ....common.settings.run_config import RunConfig
from ...organisation.settings import OrganisationFile
from ..masking.masker import Masker
from ..masking.session import Sessions
from ..masking.summing import SummingLearner
from .guard import GuardedLearner
from .ledger import Ledger


def summing_learner(
    guarded: GuardedLearner, organisation: OrganisationFile, config: RunConfig, ledger: Ledger
) -> SummingLearner | None:
    """Return the learner that makes parts of sums; None for a run whose updates are sent alone.

    Raises:
        PolicyError: the run masks, and this organisation's file does not name a manifest and an identity, or its policy
            pins another manifest.
        ConfigError: one of the two files cannot be read.
    """
    if config.privacy.mode == "none":
        return None
    masker = _masker(organisation, ledger) if config.privacy.mode == "secagg" else None
    return SummingLearner(inner=guarded, config=config, residuals=guarded.residuals, masker=masker)


def _masker(organisation: OrganisationFile, ledger: Ledger) -> Masker:
    place, policy = organisation.settings.federation, organisation.policy
    if not place.manifest or not place.identity:
        raise PolicyError(
            "privacy.mode",
            f"The run uses secure aggregation, and {organisation.file} does not name federation.manifest and "
            "federation.identity. Make the key with `fedgrpo keys identity`, and get the manifest from the operator.",
        )
    manifest = Manifest.read(organisation.path(place.manifest))
    if manifest.sha256 != policy.manifest_sha256:
        raise PolicyError(
            "manifest",
            f"The manifest {organisation.path(place.manifest)} has the fingerprint {manifest.sha256}; "
            f"policy.manifest-sha256 is {policy.manifest_sha256 or '(empty)'}. Compare it with the other "
            "organisations' over another channel, such as the phone, and write it there.",
        )
    identity = Identity.read(organisation.path(place.identity))
    if not manifest.has(organisation.name) or manifest.key_of(organisation.name) != identity.public:
        raise PolicyError(
            "manifest",
            f"The manifest does not list {organisation.name} with the key in {place.identity}. Send the operator the "
            "public half, and ask for the manifest that has it.",
        )
    return Masker(
        name=organisation.name,
        identity=identity,
        manifest=manifest,
        sessions=Sessions(organisation.folder / "sums"),
        ledger=ledger,
        min_members=policy.min_members,
    )
