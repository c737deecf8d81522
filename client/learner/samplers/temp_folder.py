"""A folder of this process for what vLLM reads: in memory where the system has such a place, for its owner only."""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import shutil
from pathlib import Path
from tempfile import gettempdir, mkdtemp

IN_MEMORY = Path("/dev/shm")
NAME = "fedgrpo-vllm"


def make_temp_folder() -> Path:
    """A new folder, removed when the process ends; those of processes that were killed are removed now."""
    place = IN_MEMORY if os.access(IN_MEMORY, os.W_OK) else Path(gettempdir())
    _sweep(place)
    folder = Path(mkdtemp(prefix=f"{NAME}-{os.getpid()}-", dir=place))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _sweep(place: Path) -> None:
    for folder in place.glob(f"{NAME}-*-*"):
        owner = re.match(rf"{NAME}-(\d+)-", folder.name)
        with contextlib.suppress(OSError):
            if owner and folder.stat().st_uid == os.getuid() and not _runs(int(owner[1])):
                shutil.rmtree(folder, ignore_errors=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
