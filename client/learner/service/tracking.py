"""The organisation's own trackers: its learner's steps, where its own file says, and nowhere else. No torch.

Nothing that the server sends decides whether, what or where to: of a federation's id only a hash is kept, to tell one
federation's run from another's. And nothing that a tracker gets goes to the server.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from ....common.trackers.libraries import Place
from ....common.trackers.names import check_uses
from ....common.trackers.trackers import Point, Trackers, last_step
from ...organisation.settings import OrganisationFile

SERIES = "steps"


class OrganisationTracking:
    """One tracker run for each federation that the learner works in; a learner that is started again goes on in it."""

    def __init__(self, organisation: OrganisationFile) -> None:
        """Trackers of the organisation's file; without any, nothing is done.

        Raises:
            ConfigError: a library or a token is missing.
        """
        check_uses("tracking.use", organisation.settings.tracking.uses)
        self._organisation = organisation
        self._federation = ""
        self._trackers: Trackers | None = None
        self._steps = 0

    def step(self, federation: str, figures: Mapping[str, float]) -> None:
        """An optimizer step is done: figures under TRL's names, which get TRL's prefix `train/`.

        Steps are counted by the learner itself, over all rounds and also over those that came to nothing.
        """
        if self._organisation.settings.tracking.uses:
            trackers = self._of(hashlib.sha256(federation.encode(errors="replace")).hexdigest()[:12])
            self._steps += 1
            trackers.log(Point(SERIES, self._steps, {f"train/{name}": value for name, value in figures.items()}))

    def close(self) -> None:
        """Let the trackers finish what they have."""
        if self._trackers is not None:
            self._trackers.close()

    def _of(self, federation: str) -> Trackers:
        if self._trackers is None or federation != self._federation:
            if self._trackers is not None:
                self._trackers.end()
            own = self._organisation.settings.tracking
            folder = self._organisation.tracking_folder / federation
            place = Place(
                folder=folder, project=own.project, run=f"{self._organisation.name}-{federation}", axis="step"
            )
            self._federation, self._steps = federation, last_step(folder, SERIES)
            self._trackers = Trackers(own.uses, place)
        return self._trackers
