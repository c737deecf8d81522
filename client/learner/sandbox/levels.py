"""Which sandbox this machine can give: found by trying each one, since kernels, containers and policies differ."""

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
TMP_BYTES = 16 << 20
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
    """An interpreter and what it reads."""

    executable: Path
    libraries: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A way to start the script that calls the model's function."""

    name: str
    """`bubblewrap`, `landlock`, or `none` for a process that has limits and nothing else."""
    command: tuple[str, ...]
    readable: tuple[str, ...] | None
    seccomp: bool

    def run(self, request: dict[str, Any], seconds: float, most: int) -> process.Ended:
        """Answer a request (`inside.py`), with at most so many bytes, and within so many seconds."""
        own = {"readable": self.readable, "seccomp": self.seccomp}
        given = json.dumps({**request, **own}).encode()
        return process.run(self.command, given, seconds, most, contained=self.name == "bubblewrap")


def level() -> str:
    """How this machine contains model-written code: `bubblewrap`, `landlock`, or `none: ` and why."""
    found = best()
    return found if isinstance(found, str) else found.name


@functools.cache
def best() -> Sandbox | str:
    """The strongest sandbox that passes its trial here, else `none: ` and what each one lacks. Tried once a process."""
    faults: list[str] = []
    for candidate in _candidates():
        fault = candidate if isinstance(candidate, str) else _fault(candidate)
        if not fault and isinstance(candidate, Sandbox):
            return candidate
        faults.append(fault)
    return "none: " + "; ".join(dict.fromkeys(faults))


@functools.cache
def unsandboxed() -> Sandbox:
    """A process with limits of memory, time and file size, and otherwise the rights of this account.

    Root becomes nobody here too, so its interpreter must be one that nobody may start.

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
    """Sandboxes to try, strongest first; a text where one cannot be tried, and why."""
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
    """The interpreter under this environment, and the system's, for where ours lies in a home nobody else may enter."""
    own = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    ours = Python(own, (str(Path(sys.base_prefix) / "lib"),))
    system = Python(SYSTEM_PYTHON.resolve(), ())
    return [ours, system] if system.executable.is_file() and system.executable != own else [ours]


def _script(python: Python) -> tuple[str, ...]:
    return (str(python.executable), "-I", "-S", "-B", "-X", "utf8", "-c", SCRIPT)


def _readable(python: Python) -> tuple[str, ...]:
    wanted = (*LIBRARIES, *python.libraries, "/etc/ld.so.cache")
    return tuple(path for path in wanted if Path(path).exists())


def _bubblewrap(bwrap: str, python: Python) -> tuple[str, ...]:
    """A root that holds libraries and one interpreter, read-only, and a small /tmp; no /proc, no /dev, no network."""
    options = ["--unshare-user", "--unshare-all", "--disable-userns", "--cap-drop", "ALL", "--clearenv"]
    # --as-pid-1: bubblewrap would leave the first process of its own to be reaped by whoever reaps orphans here
    options += ["--new-session", "--die-with-parent", "--as-pid-1"]
    for path in _readable(python):
        link = Path(path)
        options += ["--symlink", str(link.readlink()), path] if link.is_symlink() else ["--ro-bind", path, path]
    options += ["--ro-bind", str(python.executable), str(python.executable), "--dev-bind", "/dev/null", "/dev/null"]
    options += ["--size", str(TMP_BYTES), "--tmpfs", "/tmp", "--remount-ro", "/", "--chdir", "/tmp", "--"]
    return (bwrap, *options)


def _fault(sandbox: Sandbox) -> str:
    """What is wrong with a sandbox, after code in it tried to read, to write and to fork; empty where nothing is."""
    try:
        ended = sandbox.run({**TRIAL, **TRIAL_LIMITS}, TRIAL_LIMITS["seconds"], 1 << 10)
        found = json.loads(ended.output or b"null")
    except (OSError, ValueError) as error:
        return f"{sandbox.name} does not start ({error})"
    if found is None:
        return f"{sandbox.name} does not start ({ended.complaint or ended.why})"
    return "" if found == [[[True] * 3]] else f"{sandbox.name} does not contain what it runs ({found})"
