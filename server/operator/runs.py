"""Runs of an operator: submitted, followed, and gone on with after a crash.

A killed SuperLink or ServerApp fails a Flower run for good. The federation is ours: a new Flower run continues it from
the journal, and clients answer what they have done already from their caches.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from ...common.errors import ConfigError, RunError
from ...common.identity.manifest import Manifest
from ...common.secagg.grid import grid_of
from ...common.settings.bundle import installed_sha256
from ...common.settings.run_config import RunConfig, load_scenario
from ...common.settings.scope import IN_WORDS, ignored_settings
from ...common.storage.atomic import write_atomic
from ..run.layout import RunFolder
from ..run.lock import is_busy
from ..run.status import RunStatus, stop_reason
from ..run.store import Store
from .flwr_cli import Flower
from .follow import LOOK_S, Follower, Watch
from .heartbeats import NodeWatch
from .journal_lines import JournalLines
from .server_folder import ServerFolder

SUPERLINK_PATIENCE_S = 180.0
"""How long a run that goes on after a crash waits for the SuperLink."""
MAX_RESTARTS = 5
"""Crashes in a row, without a committed round between them, after which nobody should start it again unasked."""


def submit(
    folder: ServerFolder,
    config: RunConfig,
    name: str,
    say: Callable[[str], None],
    watch: Watch | None = None,
) -> RunStatus:
    """Have a run played to its end, across crashes of SuperLink and ServerApp.

    Args:
        say: told what a person should know.
        watch: called every second while the run is followed; may raise. Without one, the journal's lines are said.

    Raises:
        ConfigError: there is such a run, or the name is none.
        RunError: it cannot be played to the end; says why and how to go on.
    """
    if is_busy(folder.runs / name):
        raise ConfigError(f"The run {name} is under way. `fedgrpo server status {folder.path}` shows it.")
    if RunFolder(folder.runs / name).begun:
        if RunStatus.read(folder.runs / name).state == "finished":
            raise ConfigError(f"The run {name} is finished. Give this one another name (--run).")
        raise ConfigError(f"There is a run {name} already. Go on with it: fedgrpo server resume {folder.path} {name}")
    return _played(folder, config, name, say, watch)


def resume(folder: ServerFolder, name: str, say: Callable[[str], None], watch: Watch | None = None) -> RunStatus:
    """Go on with an interrupted run, with its own settings.

    Raises:
        ConfigError: there is no such run, or it is under way.
    """
    file = RunFolder(folder.runs / name).settings
    if not file.exists() and (reason := stop_reason(file.parent)):
        raise ConfigError(f"The run {name} never began, so there is nothing to go on from. {reason}")
    if not file.exists():
        known = ", ".join(folder.run_names()) or "none"
        raise ConfigError(f"There is no run {name} in {folder.runs}. Runs: {known}.")
    status = RunStatus.read(file.parent)
    if status.state == "finished":
        return status
    if status.state == "running":
        raise ConfigError(f"The run {name} is under way. `fedgrpo server status {folder.path}` shows it.")
    return _played(folder, load_scenario(file), name, say, watch)


def stop(folder: ServerFolder, name: str) -> None:
    """End a run. What is committed is safe, and `resume` goes on from it.

    Raises:
        ConfigError: it is not under way.
    """
    file = folder.path / "submitted" / f"{name}.run"
    if not file.exists() or not is_busy(folder.runs / name):
        raise ConfigError(f"The run {name} is not under way. `fedgrpo server status {folder.path}` shows the runs.")
    Store(folder.runs / name).stopped("Stopped by the operator.")
    Flower(folder).stop(int(file.read_text()))


def _played(
    folder: ServerFolder, config: RunConfig, name: str, say: Callable[[str], None], watch: Watch | None
) -> RunStatus:
    flower = Flower(folder)
    watch = watch or _printing(folder, name, say)
    if ignored := ignored_settings(config):
        say(f"{name}: organisations ignore everything in {IN_WORDS}. Of this scenario: {', '.join(ignored)}")
    config = config.with_values(_outputs(folder, config, name))
    submitted = folder.path / "submitted" / f"{name}.toml"
    submitted.parent.mkdir(exist_ok=True)
    write_atomic(submitted, config.to_toml().encode())
    restarts, rounds = 0, 0
    while True:
        RunFolder(folder.runs / name).stopped.unlink(missing_ok=True)
        run_id = _submitted(flower, submitted, patient=restarts > 0 or rounds > 0, say=say)
        write_atomic(submitted.with_suffix(".run"), str(run_id).encode())
        say(f"{name}: submitted as Flower run {run_id}, with the app bundle {installed_sha256()}")
        say(f"{name}: waiting for {config.federation.min_clients} clients or more")
        status = Follower(flower, run_id, folder.runs / name, say).follow(watch)
        if status is not None and status.state == "finished":
            return status
        if reason := stop_reason(folder.runs / name):
            begun = RunFolder(folder.runs / name).begun
            hint = f"\nGo on with: fedgrpo server resume {folder.path} {name}"
            raise RunError(reason + (hint if begun else "\nNothing was trained. Submit it again when that is mended."))
        committed = status.round if status else 0
        restarts, rounds = (0, committed) if committed > rounds else (restarts + 1, rounds)
        if restarts > MAX_RESTARTS or not (folder.runs / name).exists():
            raise RunError(
                f"The run {name} has ended {restarts} times without a committed round between. "
                f"{folder.logs / 'serverapp.log'} says why. Go on with: fedgrpo server resume {folder.path} {name}"
            )
        say(f"{name}: the ServerApp or the SuperLink has died; going on from the journal")


def _outputs(folder: ServerFolder, config: RunConfig, name: str) -> dict[str, str]:
    """Return where a run is written and who takes part; with manifest and identity it has a round log.

    Raises:
        ConfigError: secure aggregation needs a manifest, and it is missing or damaged, or lists too many members for
            privacy.clip-norm.
    """
    found = {"output.dir": str(folder.runs), "output.run": name, "output.nodes": str(folder.nodes_file)}
    if folder.manifest.exists():
        found |= {"output.manifest": str(folder.manifest)}
        found |= {"output.identity": str(folder.identity)} if folder.identity.exists() else {}
    if config.privacy.mode == "secagg":
        if not folder.manifest.exists():
            raise ConfigError(
                f"privacy.mode is secagg, and {folder.manifest} does not exist. Write it with the identity keys of "
                f"all organisations: fedgrpo manifest init {folder.manifest}"
            )
        grid_of(config, len(Manifest.read(folder.manifest).members))
    return found


def _printing(folder: ServerFolder, name: str, say: Callable[[str], None]) -> Watch:
    """Return what prints the run's new events, and clients that go away or come back."""
    lines = JournalLines(folder.runs / name, say)
    nodes = NodeWatch(folder.database, folder.node_names, lambda text: say(f"{name}: {text}"))

    def watch() -> None:
        lines.catch_up()
        nodes.look()

    return watch


def _submitted(flower: Flower, file: Path, *, patient: bool, say: Callable[[str], None]) -> int:
    """Submit a run; one that goes on after a crash waits for the SuperLink to come back."""
    deadline = time.monotonic() + (SUPERLINK_PATIENCE_S if patient else 0.0)
    while True:
        try:
            return flower.submit(file)
        except RunError as error:
            if time.monotonic() >= deadline:
                raise
            say(f"cannot submit yet: {error}")
            time.sleep(LOOK_S * 5)
