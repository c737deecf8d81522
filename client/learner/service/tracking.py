"""The organisation's trackers: its learner's steps, sent only where its own file says. No torch.

The server cannot influence whether, what or where to send: of a federation's id only a hash is used, to tell the runs
of different federations apart. Nothing that a tracker gets is sent to the server.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from ....common.storage.atomic import make_private_folder
from ....common.trackers.libraries import Place
from ....common.trackers.names import check_uses
from ....common.trackers.trackers import Point, Trackers, last_step
from ...organisation.settings import OrganisationFile

SERIES = "steps"


class OrganisationTracking:
    """One tracker run per federation that the learner works in; a restarted learner continues it."""

    def __init__(self, organisation: OrganisationFile) -> None:
        """Check the trackers of the organisation's file; without any, nothing is tracked.

        Raises:
            ConfigError: a library or a token is missing.
        """
        check_uses("tracking.use", organisation.settings.tracking.uses)
        self._organisation = organisation
        self._federation = ""
        self._trackers: Trackers | None = None
        self._steps = 0

    def step(self, federation: str, figures: Mapping[str, float]) -> None:
        """Log an optimizer step: figures under TRL's names, with TRL's prefix `train/`.

        The learner itself counts steps, over all rounds including void ones.
        """
        if self._organisation.settings.tracking.uses:
            trackers = self._of(hashlib.sha256(federation.encode(errors="replace")).hexdigest()[:12])
            self._steps += 1
            trackers.log(Point(SERIES, self._steps, {f"train/{name}": value for name, value in figures.items()}))

    def close(self) -> None:
        """Let the trackers finish writing."""
        if self._trackers is not None:
            self._trackers.close()

    def _of(self, federation: str) -> Trackers:
        if self._trackers is None or federation != self._federation:
            if self._trackers is not None:
                self._trackers.end()
            settings = self._organisation.settings.tracking
            folder = self._organisation.tracking_folder / federation
            place = Place(
                folder=folder, project=settings.project, run=f"{self._organisation.name}-{federation}", axis="step"
            )
            make_private_folder(folder)
            self._federation, self._steps = federation, last_step(folder, SERIES)
            self._trackers = Trackers(settings.uses, place)
        return self._trackers
