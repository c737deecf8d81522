"""An export's folder: whole or not there, and never in place of something else."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from ...common.errors import ConfigError
from ...common.storage.atomic import sync_folder

RECORD = "export.json"
"""Says what an export is. `--force` replaces only a folder that has one."""


def check_free(folder: Path, force: bool) -> None:
    """Refuse a place where something is.

    Raises:
        ConfigError: `folder` is a file, or holds something that `force` may not replace either.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ConfigError(f"{folder} exists and is no folder. Give another one with --out.")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not force:
        raise ConfigError(
            f"{folder} is not empty. Give another folder with --out, or --force to replace the export in it."
        )
    if not (folder / RECORD).is_file():
        raise ConfigError(
            f"{folder} holds something that is no export ({RECORD} is missing), so --force does not replace it."
        )


@contextmanager
def new_folder(folder: Path, force: bool) -> Generator[Path]:
    """A folder to fill, which takes the name `folder` when the block ends well and is gone when it does not.

    Raises:
        ConfigError: as `check_free`.
    """
    check_free(folder, force)
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(f".{folder.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    aside.mkdir()
    try:
        yield aside
        for path in sorted(p for p in aside.rglob("*") if p.is_file()):
            _flush(path)
        sync_folder(aside)
        check_free(folder, force)
        _swap(aside, folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _swap(aside: Path, folder: Path) -> None:
    """Put `aside` in the place of `folder`; what was there is removed last."""
    old = aside.with_suffix(".old")
    if folder.exists():
        os.replace(folder, old)
    try:
        os.replace(aside, folder)
    except OSError:
        if old.exists():
            os.replace(old, folder)
        raise
    sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def listing(folder: Path) -> list[dict[str, object]]:
    """Name, size in bytes and SHA-256 of every file, by name."""
    found: list[dict[str, object]] = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        found.append({"name": str(path.relative_to(folder)), "bytes": path.stat().st_size, "sha256": sha256})
    return found
