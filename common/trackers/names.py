"""The setting that names trackers and their addresses, with the same syntax on server and client."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from urllib.parse import urlsplit

from ..errors import ConfigError

LIBRARIES = {"tensorboard": "tensorboardX", "wandb": "wandb", "trackio": "trackio", "mlflow": "mlflow"}
"""Tracker -> the module it needs."""
SENDS_ELSEWHERE = {"trackio": ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_WEBHOOK_URL")}
"""Environment variables that make a library send data elsewhere, and that it cannot be made to ignore."""


@dataclass(frozen=True, slots=True)
class Use:
    """One tracker, and the address it sends to."""

    name: str
    url: str = ""
    """Empty keeps everything on this machine."""

    @property
    def host(self) -> str:
        """Return the host that data goes to; empty if it stays on this machine."""
        return urlsplit(self.url).hostname or ""

    def __str__(self) -> str:
        if not self.url:
            return f"{self.name} stays on this machine"
        return f"{self.name} SENDS these figures to {self.host} ({self.url})"


def read_uses(key: str, text: str) -> tuple[Use, ...]:
    """Read a setting such as `tensorboard,wandb=https://api.wandb.ai`.

    Args:
        key: the setting's name, for messages.

    Raises:
        ConfigError: a tracker is unknown or named twice, or an address is invalid.
    """
    uses = tuple(_read_use(key, part.strip()) for part in text.split(",") if part.strip())
    duplicates = [use.name for i, use in enumerate(uses) if use.name in {other.name for other in uses[:i]}]
    if duplicates:
        raise ConfigError(f"{key} names {duplicates[0]} twice. Each tracker writes to one place only.")
    return uses


def check_uses(key: str, uses: tuple[Use, ...], environment: Mapping[str, str] = os.environ) -> None:
    """Check, before any work, that every tracker can run.

    Raises:
        ConfigError: a library or a token is missing, or the environment would send data elsewhere.
    """
    for use in uses:
        library = LIBRARIES[use.name]
        if find_spec(library) is None:
            raise ConfigError(
                f"{key} names {use.name}, which needs {library}, but that is not installed here. "
                "Install the extra: pip install 'fedgrpo[trackers]'."
            )
        elsewhere = [name for name in SENDS_ELSEWHERE.get(use.name, ()) if environment.get(name)]
        if elsewhere:
            raise ConfigError(
                f"{elsewhere[0]} is set, so {use.name} would send data to an address that {key} does not name. "
                f"Unset it, and set {key} to {use.name}=URL instead."
            )
        if use.name == "wandb" and use.url and not environment.get("WANDB_API_KEY"):
            raise ConfigError(
                f"{key} sends to {use.host}, which needs WANDB_API_KEY in the environment. "
                "Set it, or write wandb without an address: that keeps the run in files, for `wandb sync` later."
            )


def _read_use(key: str, part: str) -> Use:
    name, _, url = (piece.strip() for piece in part.partition("="))
    if name not in LIBRARIES:
        raise ConfigError(f"{key} names {name!r}. Trackers are {', '.join(LIBRARIES)}.")
    if not url:
        return Use(name)
    if name == "tensorboard":
        raise ConfigError(
            f"{key} gives tensorboard an address, but it writes files only. Write tensorboard without one."
        )
    try:
        address = urlsplit(url)
        valid = address.scheme in ("http", "https") and address.hostname
    except ValueError:
        address, valid = urlsplit(""), False
    if not valid or address.username or address.password or address.query or address.fragment:
        raise ConfigError(
            f"{key} gives {name} an address that is not of the form https://HOST/PATH. "
            "Keys and tokens belong in the environment, never here."
        )
    return Use(name, url)
