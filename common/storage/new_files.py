"""Files that must not exist yet: keys and settings, which are never overwritten."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import ConfigError
from .atomic import PRIVATE


def write_private(path: Path, data: bytes) -> None:
    """Write a new file that only its owner may read, from its first moment on."""
    write_new(path, data, PRIVATE)


def write_new(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file that must not exist, and flush it to the disk.

    Raises:
        ConfigError: it does, or cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise ConfigError(f"{path} exists already and is not overwritten. Move it away if it should go.") from error
    except OSError as error:
        raise ConfigError(f"Cannot write {path}: {error.strerror}.") from error
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
