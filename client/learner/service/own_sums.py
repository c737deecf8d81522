"""An organisation's own part in sums: its identity, the manifest that it pinned, and the ledger that signs once."""

from __future__ import annotations

from pathlib import Path

from ....common.errors import ConfigError, PolicyError
from ....common.settings.run_config import RunConfig
from ...organisation.credentials import Credentials, read_credentials
from ...organisation.settings import OrganisationFile
from ..masking.masker import Masker
from ..masking.session import Sessions
from ..masking.summing import SummingLearner, nothing_noted
from .guard import GuardedLearner
from .log_keeper import LogKeeper


def summing_learner(
    guarded: GuardedLearner,
    organisation: OrganisationFile,
    config: RunConfig,
    keeper: LogKeeper | None = None,
    *,
    folder: Path,
    app_sha256: str = "",
) -> SummingLearner | None:
    """Return the learner that makes parts of sums; None for a run whose updates are sent alone.

    Args:
        keeper: writes the organisation's receipts; None where no manifest is pinned.
        folder: what must not be forgotten of sums.

    Raises:
        PolicyError: the run masks, and this organisation has no manifest and identity that belong together.
    """
    if config.privacy.mode == "none":
        return None
    masker = None
    if config.privacy.mode == "secagg":
        credentials = _credentials(organisation)
        masker = Masker(
            name=organisation.name,
            identity=credentials.identity,
            manifest=credentials.manifest,
            sessions=Sessions(folder),
            ledger=guarded.ledger,
            min_members=organisation.policy.min_members,
        )
    note = keeper.note if keeper else nothing_noted
    return SummingLearner(
        inner=guarded, config=config, residuals=guarded.residuals, masker=masker, note=note, app=app_sha256
    )


def _credentials(organisation: OrganisationFile) -> Credentials:
    try:
        credentials = read_credentials(organisation)
    except ConfigError as error:
        raise PolicyError("manifest", str(error)) from error
    if credentials is None:
        raise PolicyError(
            "manifest",
            f"The run uses secure aggregation, and {organisation.file} pins no manifest (policy.manifest-sha256), "
            "so nothing says who the other members are.",
        )
    return credentials
