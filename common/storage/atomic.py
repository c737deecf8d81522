"""Files that are either complete or absent: write to a temporary file, flush to disk, rename."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

PUBLIC, PRIVATE = 0o666, 0o600
"""Modes of new files: as the account's umask leaves them, or for the owner alone from the first moment on."""


def write_atomic(path: Path, data: bytes, mode: int = PUBLIC) -> None:
    """Write `data` to `path` so that a crash at any moment leaves the old file or the new one, never a part.

    Args:
        mode: PUBLIC or PRIVATE.

    Raises:
        OSError: the disk is full or the folder cannot be written; `path` is unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def make_private_folder(path: Path) -> None:
    """Make a folder that only its owner may enter, and close one that others may, before anything is written in it.

    One that a group may enter, and do nothing else with, stays so: `learner.socket-group` opens it that far.
    """
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.stat().st_mode & 0o067:
        path.chmod(0o700)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename in it survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
