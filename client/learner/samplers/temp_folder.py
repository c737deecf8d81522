"""A temporary folder for files that vLLM reads: in memory if the system supports it, and readable by its owner only."""

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
    """Create a folder that is removed when the process ends, and remove those of processes that were killed."""
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
