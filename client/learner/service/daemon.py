"""The learner's process: it serves `http_api` over a Unix socket that only its owner may use.

The socket's file permissions are the guard. Only what `guard.GuardedLearner` allows leaves through it: the relay, or
any other process under the SuperNode's account, gets no more than the server may have.
"""

from __future__ import annotations

import fcntl
import grp
import os
import socket
import stat
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from ....common.cli.signals import orderly_end
from ....common.errors import ConfigError
from ....common.foreign import safe_logger
from ....common.messages.frames import Frame
from ....common.storage.atomic import make_private_folder
from ...organisation.credentials import read_credentials
from ...organisation.settings import OrganisationFile
from .http_api import HandlesJobs, Interface
from .job_handler import JobHandler
from .jobs import Job, JobQueue
from .ledger import FILE, Ledger
from .log_keeper import LogKeeper

LOGGER = safe_logger("fedgrpo.learner")
MAX_WAIT_S = 30.0
LOOK_S = 0.05
BODY_TIMEOUT_S = 120.0
END_S = 3.0
"""How long the end of the process waits for a job to reach its next step."""


def serve(organisation: OrganisationFile) -> None:
    """Serve until a signal ends it: then the socket is removed and the trackers are closed.

    Raises:
        SystemExit: SIGTERM or SIGHUP arrived (`orderly_end`).
        ConfigError: another learner is at work in the folder, or something in the organisation's file is wrong.
    """
    prepare_folder(organisation)
    with orderly_end(), _only_one(organisation.folder):
        ledger = Ledger(organisation.folder / FILE, organisation.policy)
        learner = JobHandler(organisation, ledger, keeper_of(organisation))
        try:
            serve_jobs(organisation, learner)
        finally:
            learner.tracking.close()


def serve_jobs(organisation: OrganisationFile, learner: HandlesJobs, stop: threading.Event | None = None) -> None:
    """Serve a learner's jobs on the organisation's socket until a signal, or `stop`, ends it.

    Raises:
        Exception: what kept the learner from loading its model.
    """
    prepare_folder(organisation)
    queue = JobQueue(learner.do, organisation.folder / "cache", learner.identity, learner.kept)
    with _listening(organisation) as listener:
        config = uvicorn.Config(
            Interface(queue, learner).application(),
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=2,
        )
        server = uvicorn.Server(config)
        LOGGER.info("%s listens on %s", organisation.name, organisation.socket)
        loading = queue.submit(Frame({"kind": "warm-up"}).pack())
        threading.Thread(target=_end_if_it_fails, args=(queue, loading, server), daemon=True).start()
        if stop is not None:
            threading.Thread(target=_end_when, args=(stop, server), daemon=True).start()
        try:
            server.run(sockets=[listener])
        finally:
            queue.end(END_S)
    if loading.error is not None:
        raise loading.error


def keeper_of(organisation: OrganisationFile) -> LogKeeper | None:
    """Return who checks and signs the round log; None where the organisation pins no manifest.

    Raises:
        ConfigError: manifest, fingerprint and key do not belong together.
    """
    credentials = read_credentials(organisation)
    return LogKeeper(credentials, organisation.folder, organisation.settings.backend) if credentials else None


def _end_when(stop: threading.Event, server: uvicorn.Server) -> None:
    stop.wait()
    server.should_exit = True


def _end_if_it_fails(queue: JobQueue, loading: Job, server: uvicorn.Server) -> None:
    """A learner whose model cannot be loaded is of no use, and says so by ending."""
    while not loading.ended:
        queue.wait(loading.key, MAX_WAIT_S)
    if loading.error is not None:
        server.should_exit = True  # and never False: a signal may have set it meanwhile


def prepare_folder(organisation: OrganisationFile) -> None:
    """Make the organisation's folder, which only its owner may enter (and the group that may use the socket)."""
    try:
        make_private_folder(organisation.folder)
        (organisation.folder / "logs").mkdir(exist_ok=True, mode=0o700)
        (organisation.folder / "cache").mkdir(exist_ok=True, mode=0o700)
        organisation.socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(f"Cannot make {error.filename}: {error.strerror}.") from error


@contextmanager
def _only_one(folder: Path) -> Generator[None]:
    try:
        lock = (folder / ".learner.lock").open("w")
    except OSError as error:
        raise ConfigError(f"Cannot write in {folder}: {error.strerror}.") from error
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"A learner is at work in {folder} already. `fedgrpo client status` shows it.") from error
        yield


@contextmanager
def _listening(organisation: OrganisationFile) -> Generator[socket.socket]:
    """The socket, made with its permissions: there is no moment in which others could open it."""
    _clear_away(organisation.socket)
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        listener.bind(str(organisation.socket))
        listener.listen()  # at once: a socket that nobody listens on is taken for that of a learner that was killed
    except OSError as error:
        raise ConfigError(f"Cannot make the socket {organisation.socket}: {error.strerror}.") from error
    finally:
        os.umask(before)
    group = organisation.settings.learner.socket_group
    if group:
        _open_to(group, organisation)
    made = organisation.socket.stat().st_ino
    try:
        yield listener
    finally:
        listener.close()
        if organisation.socket.exists() and organisation.socket.stat().st_ino == made:
            organisation.socket.unlink()


def _clear_away(path: Path) -> None:
    """Remove the socket of a learner that was killed, and nothing else.

    Raises:
        ConfigError: something else is there, or a learner that answers.
    """
    if not path.exists() and not path.is_symlink():
        return
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise ConfigError(f"learner.socket is {path}, where something else is than a socket. Give it another path.")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(2)
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink()
            return
    raise ConfigError(f"A learner answers on {path} already. Give this organisation another learner.socket.")


def _open_to(group: str, organisation: OrganisationFile) -> None:
    """Let a group use the socket, and enter the folder it lies in."""
    try:
        number = grp.getgrnam(group).gr_gid
        os.chown(organisation.socket, -1, number)
        organisation.socket.chmod(0o660)
        if organisation.socket.parent == organisation.folder:  # any other folder is the organisation's to open
            os.chown(organisation.folder, -1, number)
            organisation.folder.chmod(0o710)
    except (KeyError, OSError) as error:
        raise ConfigError(
            f"Cannot open {organisation.socket} to the group {group} (learner.socket-group): {error}. The group must "
            "exist and the learner's account must belong to it."
        ) from error
