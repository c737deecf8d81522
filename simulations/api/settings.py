"""The settings of a simulation, from the command line and from Python alike."""

from __future__ import annotations

import time
from pathlib import Path

from ...common.settings.run_config import RunConfig
from ..engine import runner
from ..study import arms


def simulated_settings(config: RunConfig, *, central: bool) -> RunConfig:
    """Return the settings of a simulation that begins when all clients have joined.

    Args:
        central: one client with all problems takes the steps of all, as the arm `central` of a study.

    Raises:
        ConfigError: rounds are limited by time, which has no central counterpart.
    """
    (config,) = arms.runs_of(arms.CENTRAL if central else arms.FEDERATED, config)
    return runner.all_at_once(config)


def resumed(folder: Path, workers: int | None) -> RunConfig:
    """Return the settings with which a run resumes in its folder: its own, with another number of workers."""
    return runner.resumed(folder).with_values({"simulation.workers": workers or 0})


def default_name(scenario: str | Path, kind: str = "") -> str:
    """Return the name of a run's folder: the scenario's, and the time. A recipe's name may hold dots."""
    return f"{Path(scenario).name.removesuffix('.toml')}{kind}-{time.strftime('%Y%m%d-%H%M%S')}"
