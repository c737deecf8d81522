"""The sandboxes that this machine supports: each is tried, since kernels, containers and policies differ."""

from __future__ import annotations

import functools
import json
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....common.errors import ConfigError
from . import process

SCRIPT = (Path(__file__).parent / "inside.py").read_text(encoding="utf-8")
LIBRARIES = ("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64")
SYSTEM_PYTHON = Path("/usr/bin/python3")
TRIAL = {
    "code": (
        "import os\n"
        "def refused(act):\n"
        "    try:\n"
        "        act()\n"
        "        return False\n"
        "    except OSError:\n"
        "        return True\n"
        "def trial(passwd, spot):\n"
        "    return [refused(lambda: open(passwd).close()), refused(lambda: open(spot, 'w').close()),\n"
        "            refused(lambda: os.fork() or os._exit(0))]\n"
    ),
    "function": "trial",
    "calls": ['["/etc/passwd", "/fedgrpo-trial"]'],
}
TRIAL_LIMITS = {"seconds": 10, "memory_bytes": 512 << 20, "file_bytes": 1 << 20}


@dataclass(frozen=True, slots=True)
class Python:
    """An interpreter and the libraries it reads."""

    executable: Path
    libraries: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A command that starts the script which calls the model's function."""

    name: str
    """`bubblewrap`, `landlock`, or `none` for a process with resource limits only."""
    command: tuple[str, ...]
    readable: tuple[str, ...] | None
    seccomp: bool

    def run(self, request: dict[str, Any], seconds: float, max_bytes: int) -> process.Ended:
        """Answer a request (`inside.py`) within a limit of time and of output."""
        restrictions = {"readable": self.readable, "seccomp": self.seccomp}
        body = json.dumps({**request, **restrictions}).encode()
        return process.run(self.command, body, seconds, max_bytes, contained=self.name == "bubblewrap")


def level() -> str:
    """Return how this machine contains model-written code: `bubblewrap`, `landlock`, or `none: ` with the reason."""
    sandbox = best()
    return sandbox if isinstance(sandbox, str) else sandbox.name


@functools.cache
def best() -> Sandbox | str:
    """Return the strongest sandbox that passes its trial, else `none: ` and what each one lacks. Tried once per
    process."""
    faults: list[str] = []
    for candidate in _candidates():
        fault = candidate if isinstance(candidate, str) else _fault(candidate)
        if not fault and isinstance(candidate, Sandbox):
            return candidate
        faults.append(fault)
    return "none: " + "; ".join(dict.fromkeys(faults))


@functools.cache
def unsandboxed() -> Sandbox:
    """Return a process with limits of memory, time and file size, but otherwise with the rights of this account.

    Root switches to an unprivileged user here too, so the interpreter must be one that this user may start.

    Raises:
        ConfigError: there is no such interpreter.
    """
    fault = ""
    for python in _pythons():
        bare = Sandbox("none", _script(python), None, seccomp=False)
        if "not start" not in (fault := _fault(bare)):
            return bare
    raise ConfigError(f"No interpreter here can run model-written code: {fault}.")


def _candidates() -> Iterator[Sandbox | str]:
    """Yield the sandboxes to try, strongest first, or a text with the reason why one cannot be tried."""
    if not sys.platform.startswith("linux"):
        yield f"{sys.platform} has neither bubblewrap nor Landlock; use Linux"
        return
    filtered = platform.machine() == "x86_64"
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        yield "bubblewrap is not installed (apt-get install bubblewrap)"
    for python in _pythons() if bwrap else ():
        yield Sandbox("bubblewrap", (*_bubblewrap(str(bwrap), python), *_script(python)), None, filtered)
    if not filtered:
        yield f"Landlock needs a filter of system calls, which is written for x86_64 and not {platform.machine()}"
    for python in _pythons() if filtered else ():
        yield Sandbox("landlock", _script(python), _readable(python), seccomp=True)


def _pythons() -> list[Python]:
    """Return the interpreter of this environment, and the system's, in case ours is in a private home folder."""
    executable = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    ours = Python(executable, (str(Path(sys.base_prefix) / "lib"),))
    system = Python(SYSTEM_PYTHON.resolve(), ())
    return [ours, system] if system.executable.is_file() and system.executable != executable else [ours]


def _script(python: Python) -> tuple[str, ...]:
    return (str(python.executable), "-I", "-S", "-B", "-X", "utf8", "-c", SCRIPT)


def _readable(python: Python) -> tuple[str, ...]:
    candidates = (*LIBRARIES, *python.libraries, "/etc/ld.so.cache")
    return tuple(path for path in candidates if Path(path).exists())


def _bubblewrap(bwrap: str, python: Python) -> tuple[str, ...]:
    """Return a root that has libraries and one interpreter; no /proc, /dev or network.

    Nothing can be written, as under Landlock: a /tmp with a limit of bytes has none of files, and a million empty ones
    take a gigabyte of kernel memory.
    """
    options = ["--unshare-user", "--unshare-all", "--disable-userns", "--cap-drop", "ALL", "--clearenv"]
    # --as-pid-1: bubblewrap's own first process would otherwise become an orphan that nothing here may reap
    options += ["--new-session", "--die-with-parent", "--as-pid-1"]
    for path in _readable(python):
        link = Path(path)
        options += ["--symlink", str(link.readlink()), path] if link.is_symlink() else ["--ro-bind", path, path]
    options += ["--ro-bind", str(python.executable), str(python.executable), "--dev-bind", "/dev/null", "/dev/null"]
    options += ["--dir", "/tmp", "--remount-ro", "/", "--chdir", "/tmp", "--"]
    return (bwrap, *options)


def _fault(sandbox: Sandbox) -> str:
    """Return what is wrong with a sandbox, after code in it tried to read, write and fork; empty if nothing is."""
    try:
        ended = sandbox.run({**TRIAL, **TRIAL_LIMITS}, TRIAL_LIMITS["seconds"], 1 << 10)
        results = json.loads(ended.output or b"null")
    except (OSError, ValueError) as error:
        return f"{sandbox.name} does not start ({error})"
    if results is None:
        return f"{sandbox.name} does not start ({ended.complaint or ended.why})"
    return "" if results == [[[True] * 3]] else f"{sandbox.name} does not contain what it runs ({results})"
