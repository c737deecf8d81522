"""Model folders on this disk: finding them, and hashing what decides a model's answers. No torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ...common.errors import ConfigError

WANTED = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"]
"""Files of a model that are fetched: no pickles, no code."""


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
        from modelscope.hub.errors import HubError
        from modelscope.hub.snapshot_download import snapshot_download
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


def file_hash(folder: Path) -> str:
    """SHA-256 over what decides a model's answers: weights, architecture, tokenizer, chat template."""
    digest = hashlib.sha256()
    patterns = ("*.safetensors", "*config.json", "tokenizer*", "*.model", "vocab*", "merges.txt", "chat_template*")
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
