"""Long-running processes that belong together: started in order, started again when one dies, ended in reverse.

What an operator or an organisation would give systemd (examples/deploy) in one foreground command. Output goes to one
log file per process; a process whose last words say that starting it again cannot help ends the whole with a message
that says what to do.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

from ..errors import ConfigError, RunError
from .service import Service

STABLE_S = 60.0
"""A process that lived this long has started well: the pauses before it is started again begin anew."""
LONGEST_PAUSE_S = 30.0
HINT_PAUSE_S = 10.0
FLOWER_ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
    "PYTHONUNBUFFERED": "1",
}


def supervise(
    services: Sequence[Service],
    lock: Path,
    say: Callable[[str], None],
    stopped: threading.Event | None = None,
    *,
    before: Callable[[], None] = lambda: None,
    when_up: str = "ready",
) -> None:
    """Run services until SIGINT or SIGTERM, or until `stopped` is set.

    Args:
        lock: a file that this process and its services hold open, so that no second set of them starts beside it.
        before: called once the lock is held, before anything is started.
        when_up: printed once every service is started and ready.

    Raises:
        RunError: a service cannot be started, or died in a way that starting it again would repeat.
    """
    stop = stopped or threading.Event()
    with _signals(stop), _locked(lock) as handle:
        before()
        try:
            for service in services:
                if not stop.is_set():
                    _bring_up(service, handle, stop, say)
            if not stop.is_set():
                say(when_up)
            while not stop.wait(0.5):
                for service in services:
                    _announce(service, say)
                    _keep_up(service, handle, say)
        finally:
            for service in reversed(services):
                service.end()


def _bring_up(service: Service, handle: int, stop: threading.Event, say: Callable[[str], None]) -> None:
    """Start a service and wait until it is ready."""
    say(f"starting {service.name}{f': {service.loading}' if service.loading else ''}")
    service.start(handle)
    deadline = time.monotonic() + service.ready_timeout_s
    while not service.ready() and not stop.is_set():
        _keep_up(service, handle, say)
        if time.monotonic() > deadline:
            raise RunError(
                f"{service.name} is not ready after {service.ready_timeout_s:.0f} s. Its log, {service.log}, ends:\n"
                f"{_tail(service)}"
            )
        time.sleep(0.1)
    if service.loading and not stop.is_set():
        say(f"{service.name} is ready")


def _announce(service: Service, say: Callable[[str], None]) -> None:
    for line in service.new_announcements():
        say(line)


def _keep_up(service: Service, handle: int, say: Callable[[str], None]) -> None:
    """Start a service again when it has died, after a pause that grows while it keeps dying."""
    if service.alive:
        return
    now = time.monotonic()
    if service.process is not None:
        _give_up_if_hopeless(service)
        service.failures = 0 if now - service.started > STABLE_S else service.failures + 1
        pause = min(LONGEST_PAUSE_S, 2.0 ** (service.failures - 1)) if service.failures else 0.0
        said = next((hint for mark, hint in service.hints.items() if mark in service.last_words()), "")
        pause = max(pause, HINT_PAUSE_S if said else 0.0)
        say(f"{service.name} ended with status {service.process.returncode}{f': {said}' if said else ''}")
        say(f"starting {service.name} again in {pause:.0f} s")
        service.process, service.next_start = None, now + pause
    if now >= service.next_start:
        service.start(handle)


def _give_up_if_hopeless(service: Service) -> None:
    words = service.last_words()
    for mark, advice in service.hopeless.items():
        if mark in words:
            raise RunError(f"{service.name} cannot run: {advice}\nIts log, {service.log}, ends:\n{_tail(service, 3)}")


def _tail(service: Service, lines: int = 10) -> str:
    return "\n".join(service.last_words().splitlines()[-lines:])


@contextlib.contextmanager
def _locked(path: Path) -> Generator[int]:
    """Hold a lock that also the services hold, for as long as any of them lives."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"{path.parent} is in use: this is running already, or left processes behind when it was killed. "
                f"`fuser {path}` lists them."
            ) from error
        yield file.fileno()


@contextlib.contextmanager
def _signals(stop: threading.Event) -> Generator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def set_stop(*_: object) -> None:
        stop.set()

    before = {n: signal.signal(n, set_stop) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def tool(name: str) -> str:
    """Return the path of a command that was installed beside this Python, as Flower's are.

    Raises:
        ConfigError: it was not; names the extra that brings it.
    """
    path = Path(sys.executable).parent / name
    if not path.exists():
        extra = "node" if name == "flower-supernode" else "server"
        raise ConfigError(
            f"{name} is not installed beside {sys.executable}. Install the extra there: pip install 'fedgrpo[{extra}]'."
        )
    return str(path)


def environment() -> dict[str, str]:
    """Environment of Flower's processes: no telemetry, no installing at run time, and ours first on the PATH."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**FLOWER_ENVIRONMENT, "PATH": path}
