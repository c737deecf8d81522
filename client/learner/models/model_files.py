"""Model folders on this disk: finding, creating and hashing them. No torch."""

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
from .registry import PUBLISHED, gguf_folder, is_gguf, published_folder

TAUGHT = "sft.json"
"""In the folder of a model that was made by supervised fine-tuning: of which model, and how."""
WANTED = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"]
"""Files of a model to download: no pickles, no code."""


def built_in_model(name: str) -> Path | None:
    """Return the folder of a model that an installed package provides (entry points `fedgrpo.models`)."""
    return next((entry.load() for entry in entry_points(group="fedgrpo.models", name=name)), None)


def model_folder(name: str, revision: str = "", source: str = "hub") -> Path:
    """Return the local folder of a model: a built-in or fetched one, an existing folder, that of a GGUF file, or a
    snapshot from Hub or ModelScope.

    Args:
        source: `hub` or `modelscope` (backend.source).

    Raises:
        ConfigError: the folder does not exist, or the source cannot be reached or does not have the model.
    """
    built_in, folder = built_in_model(name), Path(name).expanduser()
    if built_in is not None:
        return built_in
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigError(f"{folder} is not a model folder: config.json is missing.")
        return folder.resolve()
    if name in PUBLISHED:
        return published_folder(name)
    if is_gguf(name):
        return gguf_folder(folder)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ConfigError(
            f"There is no model folder {name}. Give an existing folder, a .gguf file, a Hub name, builtin, or one of "
            f"`fedgrpo models list` ({', '.join(PUBLISHED)})."
        )
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
            f"Cannot get the model {name} from ModelScope ({type(error).__name__}). Check the network and the name, "
            "which may differ from that on the Hub; or give a local folder (--model DIR)."
        ) from error


TOKENIZER = ("tokenizer*", "*.model", "vocab*", "merges.txt", "chat_template*", "special_tokens_map.json")
"""Patterns of the files that make up a folder's tokenizer."""


def must_be_new(folder: Path) -> None:
    """Refuse to overwrite an existing folder: it may be a model that others train on."""
    if folder.exists():
        raise ConfigError(f"{folder} already exists. Choose another folder, or remove it.")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Create a folder that gets its name when everything is written, and is removed if that fails.

    Raises:
        ConfigError: the folder exists already.
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
    """Copy a model folder's tokenizer byte by byte: some change when they are loaded and saved again."""
    for path in {path for pattern in (*TOKENIZER, "generation_config.json") for path in folder.glob(pattern)}:
        shutil.copyfile(path, to / path.name)


def file_hash(folder: Path) -> str:
    """Return the SHA-256 over everything that decides a model's answers: weights, architecture, tokenizer, template."""
    digest = hashlib.sha256()
    patterns = ("*.safetensors", "*config.json", "tokenizer*", "*.model", "vocab*", "merges.txt", "chat_template*")
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
