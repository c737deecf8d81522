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
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ConfigError, RunError

GRACE_S = 10.0
STABLE_S = 60.0
"""A process that lived this long has started well: the pauses before it is started again begin anew."""
LONGEST_PAUSE_S = 30.0
HINT_PAUSE_S = 10.0
LAST_WORDS = 8000
ROTATE_BYTES = 20_000_000
FLOWER_ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
    "PYTHONUNBUFFERED": "1",
}


@dataclass(slots=True)
class Service:
    """One process."""

    name: str
    command: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    ready: Callable[[], bool] = lambda: True
    ready_timeout_s: float = 60.0
    hopeless: Mapping[str, str] = field(default_factory=dict[str, str])
    """Words in its output -> what to do: starting it again would fail the same way."""
    hints: Mapping[str, str] = field(default_factory=dict[str, str])
    """Words in its output -> what they mean, where starting it again may help."""
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    failures: int = 0
    next_start: float = 0.0
    groups: list[int] = field(default_factory=list[int])
    """Process groups of all its lives."""
    said_before: int = 0
    """Bytes of the log from before this process."""

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self.process is not None and self.process.poll() is None

    def start(self, keep_open: int) -> None:
        """Start the process; `keep_open` is a file descriptor it inherits."""
        self.log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self.log.exists() and self.log.stat().st_size > ROTATE_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        with os.fdopen(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as output:
            self.said_before = output.seek(0, os.SEEK_END)
            try:
                self.process = subprocess.Popen(
                    list(self.command),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **self.environment},
                    pass_fds=(keep_open,),
                    start_new_session=True,  # Ctrl-C is for the supervisor, which ends them in order
                )
            except OSError as error:
                raise RunError(f"{self.name} cannot be started: {self.command[0]}: {error.strerror}.") from error
        self.groups.append(self.process.pid)
        self.started = time.monotonic()

    def end(self) -> None:
        """Ask the process to end, and make it if it does not."""
        if self.process is not None and self.alive:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=GRACE_S)
        for group in self.groups:  # and what it, or an earlier life of it, may have left behind
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        if self.process is not None:
            self.process.wait()
        self.groups.clear()

    def last_words(self) -> str:
        """The end of what this process has written."""
        try:
            with self.log.open("rb") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(self.said_before, end - LAST_WORDS))
                return file.read().decode(errors="replace")
        except OSError:
            return ""


def supervise(
    services: Sequence[Service],
    lock: Path,
    say: Callable[[str], None],
    stopped: threading.Event | None = None,
    before: Callable[[], None] = lambda: None,
) -> None:
    """Run services until SIGINT or SIGTERM, or until `stopped` is set.

    Args:
        lock: a file that this process and its services hold open, so that no second set of them starts beside it.
        before: called once the lock is held, before anything is started.

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
                say("ready")
            while not stop.wait(0.5):
                for service in services:
                    _keep_up(service, handle, say)
        finally:
            for service in reversed(services):
                service.end()


def _bring_up(service: Service, handle: int, stop: threading.Event, say: Callable[[str], None]) -> None:
    """Start a service and wait until it is ready."""
    say(f"starting {service.name}")
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


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def check_ports(ports: Iterable[tuple[str, str, int]]) -> None:
    """Refuse ports that are taken.

    Args:
        ports: (setting, address, port).

    Raises:
        ConfigError: somebody listens there; the setting is named.
    """
    for setting, address, port in ports:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                raise ConfigError(
                    f"{setting} is {port}, but {address}:{port} cannot be used: {error.strerror}. End what listens "
                    "there, or set another port."
                ) from error


def listens(port: int, address: str = "127.0.0.1") -> bool:
    """Whether somebody listens on a port of this machine; an address that means all stands for the loopback."""
    target = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
    with contextlib.suppress(OSError), socket.create_connection((target, port), timeout=1):
        return True
    return False
