"""Upload of an export to the Hugging Face Hub: private by default, with a token from the environment only."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from ...common.errors import ConfigError, RunError
from .output_folder import RECORD

TOKEN = "HF_TOKEN"
NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def check_push(repository: str) -> None:
    """Check, before any work, that the result can be pushed.

    Raises:
        ConfigError: the name is invalid, there is no token, or huggingface_hub is not installed.
    """
    if not NAME.fullmatch(repository):
        raise ConfigError(f"--push {repository} is not of the form ORG/NAME.")
    try:
        from huggingface_hub.utils import HFValidationError, validate_repo_id
    except ImportError as error:
        raise ConfigError("--push needs huggingface_hub: pip install 'fedgrpo[export]'.") from error
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ConfigError(f"--push {repository} is not a valid name on the Hub: {error}") from error
    if not os.environ.get(TOKEN):
        raise ConfigError(f"--push needs a token with write access in the environment variable {TOKEN}; it is not set.")


def push(folder: Path, repository: str, *, public: bool, message: str) -> str:
    """Upload an export without its record, and return its address.

    An existing repository keeps its visibility; one that is already public is refused unless `public`.

    Raises:
        ConfigError: the repository is public, but `public` is not set.
        RunError: the Hub cannot be reached or refuses. The export itself is safe on disk.
    """
    import httpx
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    token = os.environ[TOKEN]
    api: Any = huggingface_hub.HfApi(token=token)
    try:
        api.create_repo(repository, private=not public, exist_ok=True, repo_type="model")
        if not public and not api.repo_info(repository, repo_type="model").private:
            raise ConfigError(f"{repository} is already public. Use --public to publish there, or another name.")
        api.upload_folder(
            repo_id=repository, folder_path=folder, repo_type="model", commit_message=message, ignore_patterns=[RECORD]
        )
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise RunError(
            f"{_why(error).replace(token, '***')} The export is complete in {folder}; try --push again."
        ) from None
    return f"{api.endpoint}/{repository}"


def _why(error: Exception) -> str:
    """Describe an error; of the Hub's reply only the status, since its text may repeat what was sent."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if status in (401, 403):
        return f"The Hub refuses the token in {TOKEN} (status {status}): it may not write there."
    if status is not None:
        return f"The Hub answered with status {status}."
    return f"The Hub cannot be reached ({type(error).__name__}). Check the network, and that HF_HUB_OFFLINE is not set."
