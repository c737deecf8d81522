"""The whole deployment on this machine: `fedgrpo simulate --engine superlink`.

Each simulated client becomes an organisation with a folder, data files, a policy that allows exactly this run, and a
registered key. SuperLink, gateway, SuperNodes and learners are the same processes as in production, with TLS between
them. The result equals the in-process simulation's: same seeds, same shards, same names.
"""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
import threading
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path

from ...client.commands.processes import run_client
from ...client.learner.data.problems import Problem
from ...client.learner.models.model_files import file_hash, model_folder
from ...client.organisation.settings import (
    Flower,
    LearnerSettings,
    Model,
    OrganisationFile,
)
from ...common.cli import keys
from ...common.cli.ports import free_ports
from ...common.errors import ConfigError
from ...common.settings import toml
from ...common.settings.run_config import RunConfig
from ...common.storage.atomic import PRIVATE, write_atomic
from ...server.main import run_folder
from ...server.operator import flwr_cli, runs
from ...server.operator.processes import run_server
from ...server.operator.server_folder import Gateway, RunFolders, ServerFolder, ServerSettings, SuperLink
from ...server.run.layout import RunFolder
from ...server.run.reader import Run
from .loopback_settings import membership, organisation_settings
from .replay import Replay
from .runner import checked
from .simulated_clients import answered_by, client_name, client_rank, divide

LOGGER = logging.getLogger("fedgrpo.loopback")


def run_loopback(config: RunConfig) -> Run:
    """Check the settings, run the federation with real processes, and return its run folder as a `Run`.

    Raises:
        ConfigError: something is wrong, found before a process starts.
        RunError: the run could not finish; what was committed is safe.
    """
    if config.simulation.faults:
        raise ConfigError(
            "simulation.faults need simulated learners, but this engine runs real ones. Use --engine processes."
        )
    config = checked(config)
    folder = run_folder(config)
    base = RunFolder(folder).loopback
    server = _server(base, folder.parent)
    if config.privacy.mode == "secagg":
        _give_manifest(server, RunFolder(folder))
    replay = Replay(folder)
    with contextlib.ExitStack() as stack:
        sockets = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fedgrpo-")))  # their paths must be short
        organisations = _organisations(base, server, config, sockets)
        failures: list[Exception] = []
        say = LOGGER.info
        watch = lambda: _raise_first(failures, replay)  # noqa: E731
        ready = stack.enter_context(_running("server", lambda stop, tell: run_server(server, tell, stop), failures))
        _wait(ready, failures)
        _register(server, organisations)
        for organisation in organisations:
            stack.enter_context(
                _running(
                    organisation.name,
                    lambda stop, tell, organisation=organisation: run_client(organisation, tell, stopped=stop),
                    failures,
                )
            )
        if RunFolder(folder).begun:
            runs.resume(server, folder.name, say, watch)
        else:
            runs.submit(server, config, folder.name, say, watch)
    replay.catch_up()
    return Run.read(folder)


def _server(base: Path, run_folders: Path) -> ServerFolder:
    """Create or open the operator's folder; a resumed run has one, and gets ports that are free now."""
    path = base / "server"
    gateway_port, superlink_port = free_ports(2)
    settings = ServerSettings(
        gateway=Gateway(hosts=keys.LOOPBACK, bind="127.0.0.1", port=gateway_port, max_connections_per_address=1000),
        superlink=SuperLink(port=superlink_port),
        runs=RunFolders(folder=str(run_folders)),
    )
    if (path / "server.toml").exists():
        write_atomic(path / "server.toml", toml.to_toml(settings).encode())
    else:
        ServerFolder.create(path, settings)
    return ServerFolder.read(path)


def _give_manifest(server: ServerFolder, run: RunFolder) -> None:
    """Give the operator's folder the simulated federation's manifest, and the server's key in it."""
    write_atomic(server.manifest, run.manifest.read_bytes())
    write_atomic(server.identity, run.server_identity.read_bytes(), PRIVATE)


def _organisations(base: Path, server: ServerFolder, config: RunConfig, sockets: Path) -> list[OrganisationFile]:
    """Write each organisation's folder: data, file, key."""
    shards, held_out = divide(config)
    model = model_folder(config.model.name, config.model.revision, config.backend.source)
    base_model = Model(name=config.model.name, folder=str(model), sha256=file_hash(model))
    flower = Flower(
        superlink=f"127.0.0.1:{server.settings.gateway.port}",
        root_certificates=str(server.keys / "ca.crt"),
        key="node.key",
    )
    organisations: list[OrganisationFile] = []
    for number in config.simulation.taking_part:
        shard, place = shards[number], base / client_name(number)
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write_problems(place / "train.jsonl", shard)
        _write_problems(place / "held_out.jsonl", [held_out[i] for i in answered_by(number, config, len(held_out))])
        settings = replace(
            organisation_settings(config, number, tuple(sorted(shard[0].labels))),
            model=replace(base_model, rank=client_rank(config, number)),
            learner=LearnerSettings(socket=str(sockets / f"{number}.sock")),
            flower=flower,
            federation=membership(config, number),
        )
        write_atomic(place / "organisation.toml", toml.to_toml(settings).encode())
        if not (place / "node.key").exists():
            keys.make_node(place / "node.key")
        organisations.append(OrganisationFile.read(place / "organisation.toml"))
    return organisations


def _register(server: ServerFolder, organisations: list[OrganisationFile]) -> None:
    known = set(server.node_names().values())
    for organisation in organisations:
        if organisation.name not in known:
            flwr_cli.Flower(server).register(organisation.file.parent / "node.key.pub", organisation.name)


def _write_problems(path: Path, problems: list[Problem]) -> None:
    rows = [{"question": p.question, "answer": p.answer, **p.labels} for p in problems]
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows).encode())


@contextlib.contextmanager
def _running(
    name: str, work: Callable[[threading.Event, Callable[[str], None]], None], failures: list[Exception]
) -> Generator[threading.Event]:
    """Run a set of services in a thread inside a `with` block; yields an event that is set when they are ready."""
    stop, ready = threading.Event(), threading.Event()

    def tell(line: str) -> None:
        LOGGER.info("%s: %s", name, line)
        if line == "ready":
            ready.set()

    def run() -> None:
        try:
            work(stop, tell)
        except Exception as error:
            failures.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run, name=name)
    thread.start()
    try:
        yield ready
    finally:
        stop.set()
        thread.join()


def _wait(ready: threading.Event, failures: list[Exception]) -> None:
    ready.wait()
    if failures:
        raise failures[0]


def _raise_first(failures: list[Exception], replay: Replay) -> None:
    replay.catch_up()
    if failures:
        raise failures[0]
