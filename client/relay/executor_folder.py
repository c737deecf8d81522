"""The programs that a SuperNode of this organisation can start: a folder that is all of its PATH.

Flower's SuperNode starts `flower-superexec`, and that one an executor for each message, by names that are looked up in
PATH. The server chooses which: a run that declares an AgentApp is executed by `flwr-agentapp`. So each of these names
is ours, and nothing else is in PATH: if the folder is damaged or gone, nothing is started.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from ...common.cli.supervisor import tool
from ...common.flower_private import executor_programs
from ...common.storage.atomic import make_private_folder, write_atomic

SUPEREXEC = "flower-superexec"


def make_executors(folder: Path) -> Path:
    """Write the programs into a folder that only its owner may enter, and return its path."""
    make_private_folder(folder)
    _write(folder / SUPEREXEC, tool(SUPEREXEC))
    for name in executor_programs():
        _write(folder / name, sys.executable, "-P", "-m", "fedgrpo.client.executor", name)
    return folder.resolve()


def _write(path: Path, *command: str) -> None:
    """Write a program that becomes another, which an absolute path names."""
    write_atomic(path, f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n'.encode(), mode=0o700)
