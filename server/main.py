"""The ServerApp: from a run's settings to a finished, or resumable, run folder."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import signal
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from ..common.adapter.adapter import Adapter
from ..common.adapter.compression import rounded
from ..common.adapter.schema import AdapterSchema
from ..common.analysis.organisation_privacy import noise_price
from ..common.errors import ConfigError, FedGRPOError, RunError
from ..common.identity.manifest import Manifest
from ..common.messages import wire
from ..common.messages.messages import JoinRequest
from ..common.secagg.grid import grid_of
from ..common.settings.run_config import RunConfig
from ..common.trackers.names import check_uses
from .aggregation.state import State
from .federation.audited import Audited, begin, open_log
from .federation.evaluation import Evaluator, due
from .federation.exchange import ClientCalls
from .federation.roster import Roster, Terms
from .federation.rounds import Rounds
from .federation.sum_steps import SumSteps
from .federation.summed_round import SummedExchange
from .run.alarms import Alarms
from .run.events import LOGGER, show_plain_lines
from .run.journal import Finished, Journal
from .run.layout import RunFolder
from .run.lock import BusyError, locked
from .run.metrics import EvaluationMetrics, read_metrics
from .run.store import Store
from .run.tracking import following

app = ServerApp()
LAST_LOOK_S = 30.0
"""How long the clients have, after the last round, to sign the end of the round log."""


class Stopped(RunError):
    """The run was asked to end by a signal. Everything committed is safe."""

    exit_status = 130


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run, or resume, the federation that the run configuration describes."""
    show_plain_lines()
    config = RunConfig().with_values(context.run_config)
    folder = run_folder(config)
    config = config.with_values({"output.run": folder.name})
    store = Store(folder)
    try:
        run_federation(grid, config)
    except BusyError:
        raise  # the run is another process's, and so is what is said about it
    except FedGRPOError as error:
        with contextlib.suppress(OSError):  # a full disk is a reason to stop that cannot be written down
            store.stopped(str(error))
        raise


def run_federation(grid: Grid, config: RunConfig) -> None:
    """Run all remaining rounds.

    Raises:
        ConfigError: a tracker's library or token is missing.
        RunError: the run cannot go on, or was asked to stop; what was committed is safe.
    """
    store = Store(run_folder(config))
    check_uses("output.trackers", config.output.tracker_uses)
    with _stop_on_signals(store) as stop, _explain_disk(store), locked(store.folder):
        store.files.stopped.unlink(missing_ok=True)
        log = open_log(config, store.folder, grid)
        known = None if store.is_new else store.recover(config)
        terms = Terms(known.adapter.schema, known.base_model_sha256) if known else None
        roster = Roster(grid, config, terms, known.strikes if known else {})
        terms = roster.gather(stop.check)
        if known:
            store.resume(known)
        name = f"fed-{secrets.token_hex(4)}"
        state = known or store.create(config, name, first_adapter(config, terms.schema), terms.base_model_sha256)
        begin(log, state, config, resumed=known is not None)
        calls = ClientCalls(grid, config.federation, stop.check, Audited(log, roster.nodes))
        summed = summed_exchange(calls, roster, store, config, terms.schema.size)
        rounds = Rounds(calls, config, store, roster, Evaluator(calls, config, store, roster, summed), summed, log)
        _play_all(rounds, state, config, store)


def summed_exchange(
    calls: ClientCalls, roster: Roster, store: Store, config: RunConfig, size: int
) -> SummedExchange | None:
    """Return what asks for sums where the server is to see sums only; None where updates are sent alone.

    Args:
        size: numbers of an update. What noise on the sum costs is said before the first round.

    Raises:
        ConfigError: the manifest is missing or damaged, or lists too many members for privacy.clip-norm.
    """
    if config.privacy.mode == "none":
        return None
    manifest = None
    if config.privacy.mode == "secagg":
        named = config.output.manifest
        manifest = Manifest.read(Path(named).expanduser() if named else store.files.manifest)
        grid_of(config, len(manifest.members))
        check_cohort(config, manifest)
    steps = SumSteps(calls, roster, config.privacy.step_timeout_s)
    summed = SummedExchange(steps, config, roster, store.files.sum, manifest)
    if config.privacy.noise_multiplier:
        LOGGER.warning("The noise %s.", noise_price(config, size, summed.members))
    return summed


def check_cohort(config: RunConfig, manifest: Manifest) -> None:
    """Check that a round asks as many members as can open its sum.

    Raises:
        ConfigError: it asks fewer: every round would be void.
    """
    cohort = config.federation.clients_per_round
    if 0 < cohort < manifest.threshold:
        raise ConfigError(
            f"federation.clients-per-round is {cohort}, and {manifest.threshold} of the manifest's "
            f"{len(manifest.members)} members must open a sum, so that no two sums of a round can be opened. Ask at "
            "least as many, or 0 for all."
        )


def first_adapter(config: RunConfig, schema: AdapterSchema) -> Adapter:
    """Return the adapter before the first round, rounded as it is sent."""
    start = Adapter.initial(schema)
    return replace(start, vector=rounded(start.vector, config.compression.down))


def run_folder(config: RunConfig) -> Path:
    """Return the folder of this run.

    Raises:
        ConfigError: output.run is no plain folder name.
    """
    name = config.output.run or time.strftime("run-%Y%m%d-%H%M%S")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ConfigError(f"output.run is {name!r}, but must be a plain folder name. Put the path in output.dir.")
    return Path(config.output.dir).expanduser().resolve() / name


def _play_all(rounds: Rounds, state: State, config: RunConfig, store: Store) -> None:
    with following(config, store, state.federation) as tell_trackers:
        _evaluate_if_due(rounds, state, config, store)
        tell_trackers()
        alarms = Alarms(store)
        while state.round < config.federation.rounds:
            state = rounds.play(state)
            tell_trackers()
            _evaluate_if_due(rounds, state, config, store)
            tell_trackers()
            alarms.look(state.round)
    _close_log(rounds)
    if not Journal.read(store.files.journal).finished:
        store.log(Finished(round=state.round, adapter=state.adapter.sha256))


def _close_log(rounds: Rounds) -> None:
    """Show the end of the round log to every client that is there, and close it with their signatures.

    One that does not answer soon has signed less: the log says how much, and nothing is lost.
    """
    log, nodes = rounds.log, rounds.roster.nodes
    if log is None or log.last.event == "finished":
        return
    question = wire.record_of(JoinRequest(config_sha256=rounds.config.sha256))
    messages = {node: question for name, node in nodes.items() if log.manifest.has(name)}
    for _ in rounds.calls.ask(messages, "query.audit", "audit", timeout_s=LAST_LOOK_S):
        pass  # the signatures are taken out of the replies, which say no more
    log.finish()


def _evaluate_if_due(rounds: Rounds, state: State, config: RunConfig, store: Store) -> None:
    """Evaluate if it is due, and never twice, even after a resume."""
    lines = read_metrics(store.files.metrics)
    had = {(line.round, line.decoding) for line in lines if isinstance(line, EvaluationMetrics)}
    for decoding in due(config, state.round):
        if (state.round, decoding) not in had:
            rounds.evaluator.evaluate(state, config.evaluation.temperature if decoding == "sampled" else 0.0)


class _Stop:
    """Set by a signal, checked while waiting."""

    def __init__(self, folder: Path) -> None:
        self._event = threading.Event()
        self._folder = folder

    def set(self, *_: object) -> None:
        self._event.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C ends at once

    def check(self) -> None:
        if self._event.is_set():
            safe = RunFolder(self._folder).begun
            raise Stopped("Stopped on request." + (f" Every committed round is safe in {self._folder}." * safe))


@contextmanager
def _stop_on_signals(store: Store) -> Generator[_Stop]:
    """Turn SIGINT and SIGTERM into an orderly end. Only the main thread can; elsewhere the host process decides."""
    stop = _Stop(store.folder)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.set) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _explain_disk(store: Store) -> Generator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
            raise ConfigError(f"Cannot make the run folder {store.folder}: something else is in the way.") from error
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        raise RunError(
            f"Cannot write to {store.folder}: {os.strerror(error.errno)}. Every committed round is safe there; "
            "make room or permission, then resume the run."
        ) from error
