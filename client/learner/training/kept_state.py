"""What a client keeps from one of its rounds for the next, on its disk: Adam's second moment, groups to replay."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ....common.messages.messages import TrainTask
from ....common.settings.training import Train
from .kept_moments import KeptMoments, SecondMoment
from .replay import KeptGroups, Memory


@dataclass(frozen=True, slots=True)
class RoundState:
    """What a round begins with, and what it leaves."""

    moment: SecondMoment | None = None
    """Adam's second moment; None starts with an empty one, and keeps none."""
    memory: Memory | None = None
    """The groups that may be replayed; None replays none."""


class KeptState:
    """The state after each round of an organisation, by round and attempt."""

    def __init__(self, folder: Path) -> None:
        self.moments, self.groups = KeptMoments(folder), KeptGroups(folder)

    def load(self, task: TrainTask, settings: Train) -> RoundState:
        """Return what the settings have a round begin with: the state after the client's last round that counted."""
        moment = self.moments.load(task) if settings.optimizer_state == "kept" else None
        if not settings.replay:
            return RoundState(moment)
        groups = self.groups.load(task)
        return RoundState(
            moment, Memory(groups, number=task.round, per_step=settings.replay, rounds=settings.replay_rounds)
        )

    def keep(self, task: TrainTask, state: RoundState) -> None:
        """Save the state after a round under way."""
        if state.moment is not None:
            self.moments.keep(task, state.moment)
        if state.memory is not None:
            self.groups.keep(task, state.memory.groups)
