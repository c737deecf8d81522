"""Model folders on this disk: finding, making and hashing them. No torch."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path

from ....common.errors import ConfigError

WANTED = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"]
"""Files of a model that are fetched: no pickles, no code."""


def built_in_model(name: str) -> Path | None:
    """The folder of a model that comes with an installed package (entry points `fedgrpo.models`)."""
    return next((entry.load() for entry in entry_points(group="fedgrpo.models", name=name)), None)


def model_folder(name: str, revision: str = "", source: str = "hub") -> Path:
    """The local folder of a model: an existing folder, or a snapshot from the Hub or from ModelScope.

    Args:
        source: `hub` or `modelscope` (backend.source).

    Raises:
        ConfigError: there is no such folder, or the source cannot be reached or has no such model.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigError(f"{folder} is no model folder: it holds no config.json.")
        return folder.resolve()
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ConfigError(f"There is no model folder {name}. Give an existing folder, a Hub name, or builtin.")
    return _from_modelscope(name, revision) if source == "modelscope" else _from_hub(name, revision)


def _from_hub(name: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=WANTED))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ConfigError(
            f"Cannot get the model {name} from the Hub ({type(error).__name__}). Check the name and the network, or "
            "give a local folder (--model DIR); --model builtin needs neither."
        ) from error


def _from_modelscope(name: str, revision: str) -> Path:
    try:
        from modelscope.hub.errors import HubError  # pyright: ignore[reportMissingImports]
        from modelscope.hub.snapshot_download import snapshot_download  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            f"backend.source is modelscope, but the package modelscope is not installed here ({error}). Install the "
            "extra: pip install 'fedgrpo[modelscope]'; or use source hub, or a local folder."
        ) from error
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=WANTED))
    except (HubError, OSError) as error:
        raise ConfigError(
            f"Cannot get the model {name} from ModelScope ({type(error).__name__}). Check the name there, which may be "
            "another than on the Hub, and the network; or give a local folder (--model DIR)."
        ) from error


TOKENIZER = ("tokenizer*", "*.model", "vocab*", "merges.txt", "chat_template*", "special_tokens_map.json")
"""Files that make a folder's tokenizer, as patterns."""


def must_be_new(folder: Path) -> None:
    """Refuse to write where something is: that may be a model that others train on."""
    if folder.exists():
        raise ConfigError(f"{folder} is there already. Give another folder, or remove it.")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write in, which gets its name when all of it is written, and is gone if that fails.

    Raises:
        ConfigError: the name is taken.
    """
    must_be_new(folder)
    folder = folder.absolute()
    part = folder.with_name(f".{folder.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    part.mkdir(parents=True)
    try:
        yield part
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def copy_tokenizer(folder: Path, to: Path) -> None:
    """Copy a model folder's tokenizer byte by byte: saved anew, some come back as others."""
    for path in {path for pattern in (*TOKENIZER, "generation_config.json") for path in folder.glob(pattern)}:
        shutil.copyfile(path, to / path.name)


def file_hash(folder: Path) -> str:
    """SHA-256 over what decides a model's answers: weights, architecture, tokenizer, chat template."""
    digest = hashlib.sha256()
    patterns = ("*.safetensors", "*config.json", "tokenizer*", "*.model", "vocab*", "merges.txt", "chat_template*")
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
