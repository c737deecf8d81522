"""The folder of an export: complete or absent, and never replacing anything else."""

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
"""Describes an export. `--force` only replaces a folder that has one."""


def check_free(folder: Path, force: bool) -> None:
    """Refuse a folder that is in use.

    Raises:
        ConfigError: `folder` is a file, or holds something that `force` must not replace either.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ConfigError(f"{folder} exists and is not a folder. Choose another one with --out.")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not force:
        raise ConfigError(
            f"{folder} is not empty. Choose another folder with --out, or use --force to replace the export in it."
        )
    if not (folder / RECORD).is_file():
        raise ConfigError(f"{folder} is not an export ({RECORD} is missing), so --force does not replace it.")


@contextmanager
def new_folder(folder: Path, force: bool) -> Generator[Path]:
    """Create a folder that gets the name `folder` when the block succeeds, and is removed when it fails.

    Raises:
        ConfigError: as `check_free`.
    """
    check_free(folder, force)
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    temporary.mkdir()
    try:
        yield temporary
        for path in sorted(p for p in temporary.rglob("*") if p.is_file()):
            _flush(path)
        sync_folder(temporary)
        check_free(folder, force)
        _swap(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _swap(temporary: Path, folder: Path) -> None:
    """Put `temporary` in the place of `folder`; the old content is removed last."""
    old = temporary.with_suffix(".old")
    if folder.exists():
        os.replace(folder, old)
    try:
        os.replace(temporary, folder)
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
    """Return name, size in bytes and SHA-256 of every file, by name."""
    files: list[dict[str, object]] = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        files.append({"name": str(path.relative_to(folder)), "bytes": path.stat().st_size, "sha256": sha256})
    return files
