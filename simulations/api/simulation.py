"""`fedgrpo.simulate`: a federation on this machine, with the checks of the command."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...client.learner.rewards import absolute_paths
from ...common.errors import ConfigError
from ...common.settings.run_config import RunConfig
from ..engine import runner
from ..engine.inline_rewards import RewardFunction, write_inline
from ..report.live_view import watching
from .run import Run
from .settings import default_name, resumed, simulated_settings

RewardSet = str | Callable[..., Any] | Sequence[str | Callable[..., Any]]


def simulate(
    scenario: str | Path = "builtin",
    *,
    clients: int | None = None,
    rounds: int | None = None,
    seed: int | None = None,
    model: str | Path | None = None,
    data: str | Path | None = None,
    rewards: RewardSet | Sequence[Sequence[str | Callable[..., Any]]] | None = None,
    settings: Mapping[str, Any] | None = None,
    central: bool = False,
    workers: int | None = None,
    out: str | Path = "runs",
    name: str | None = None,
    resume: str | Path | None = None,
    progress: bool = True,
) -> Run:
    """Simulate a federation on this machine and return its run.

        run = fedgrpo.simulate("builtin", clients=4, rounds=3, settings={"aggregation.method": "svd"})

    Args:
        scenario: a shipped scenario (`fedgrpo.scenarios()`), or the path of a TOML file.
        clients, rounds, seed, model, data: the settings of the command's options of the same names.
        rewards: one set for all clients, as the command takes it (`"correctness,mine.py:brief=0.5"`), or as a list of
            such texts and functions in TRL's signature; or one such list per client. A function's source is kept in
            the run folder, so that worker processes and a later resume can use it; it must not need names from
            outside but modules.
        settings: any other settings, by name (`fedgrpo.settings()` lists them).
        central: one client with all problems takes the steps of all clients, one after another.
        workers: worker processes; by default one per core.
        out: the folder of run folders; `name` is the run's, by default the scenario and the time.
        resume: the folder of an interrupted run, to resume with its own settings. Takes `workers` and `progress` only.
        progress: show progress on stderr.

    Raises:
        fedgrpo.common.errors.FedGRPOError: a setting, the data, a reward or the model is wrong, found before the model
            is loaded; or the run could not be completed, and its committed rounds are safe.
    """
    if resume is not None:
        _check_alone(clients, rounds, seed, model, data, rewards, settings, name, central=central)
        config = resumed(Path(resume), workers)
    else:
        folder = Path(out).expanduser().resolve() / (name or default_name(scenario))
        values = {
            "simulation.clients": clients,
            "federation.rounds": rounds,
            "federation.seed": seed,
            "model.name": model and str(model),
            "simulation.data": data and str(Path(data).expanduser().resolve()),
            "simulation.workers": workers,
            "simulation.rewards": None if rewards is None else _specification(rewards, folder / "rewards"),
        }
        config = simulated_settings(_config(scenario, values, settings or {}, folder), central=central)
    with watching(config, resumed=resume is not None) if progress else _silence():
        return Run(runner.run_simulation(config).folder)


def _config(scenario: str | Path, arguments: Mapping[str, Any], settings: Mapping[str, Any], folder: Path) -> RunConfig:
    """Return a scenario's settings with those of the arguments that are not None, then `settings`, and the folder."""
    place = {"output.dir": str(folder.parent), "output.run": folder.name}
    values = {**arguments, **settings, **place}
    given = {key: value for key, value in values.items() if value is not None}
    return runner.scenario(str(scenario)).with_values(given)


@contextmanager
def _silence() -> Iterator[None]:
    """Keep the events of a run from stderr, where they go if nothing else listens."""
    logger, handler = logging.getLogger("fedgrpo"), logging.NullHandler()
    propagate, logger.propagate = logger.propagate, False
    logger.setLevel(logging.INFO)  # else the server assumes that nothing listens, and prints
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def scenarios() -> list[str]:
    """Return the names of the shipped scenarios."""
    return sorted(path.stem for path in runner.SCENARIOS.glob("*.toml"))


def settings(scenario: str | Path = "builtin") -> dict[str, Any]:
    """Return every setting of a scenario, by name.

    >>> settings("builtin")["grpo.num-generations"]
    8
    """
    return dict(runner.scenario(str(scenario)).flat())


def _specification(rewards: Any, folder: Path) -> str:
    """Return reward sets as the setting writes them: `;` between clients, `,` within a set."""
    if isinstance(rewards, str):
        return ";".join(absolute_paths(part) for part in rewards.split(";"))
    if callable(rewards):
        return _set([rewards], folder)
    sets = list(rewards)
    if not sets:
        raise ConfigError("rewards is empty. Give at least one reward function or the name of one.")
    nested = [not isinstance(item, str) and not callable(item) for item in sets]
    if any(nested) and not all(nested):
        raise ConfigError("rewards mixes reward functions and lists of them. Give one list, or one list per client.")
    return ";".join(_set(list(item), folder) for item in sets) if all(nested) else _set(sets, folder)


def _set(items: Sequence[str | RewardFunction], folder: Path) -> str:
    return ",".join(absolute_paths(item) if isinstance(item, str) else write_inline(item, folder) for item in items)


def _check_alone(*options: Any, central: bool) -> None:
    if central or any(option is not None for option in options):
        raise ConfigError("resume continues with the run's own settings. Besides it, only workers may be given.")
