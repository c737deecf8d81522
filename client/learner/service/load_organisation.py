"""What an organisation's file names: its rewards, its tools and its base model's folder."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from ....common.errors import ConfigError, ProtocolError
from ....common.messages.frames import Frame
from ....common.settings.run_config import RunConfig
from ...organisation.settings import OrganisationFile
from ..models.model_files import model_folder
from ..rewards import Reward, load_rewards
from ..tools import ToolBox, load_tools


def organisation_rewards(organisation: OrganisationFile) -> tuple[Reward, ...]:
    """Load the organisation's rewards; paths in `rewards.use` are relative to its file."""
    parts = [part.strip() for part in organisation.settings.rewards.use.split(",")]
    return load_rewards(",".join(str(organisation.path(part)) if ".py" in part else part for part in parts))


def organisation_tools(organisation: OrganisationFile) -> ToolBox:
    """Load the organisation's tools; paths are relative to its file."""
    own = organisation.settings.tools
    use, environment = (str(organisation.path(text)) if text else "" for text in (own.use, own.environment))
    return load_tools(use, environment, own.turns)


def organisation_model(organisation: OrganisationFile) -> Path:
    """Return the folder of the organisation's base model: its own, a built-in one, or one from `backend.source`."""
    own = organisation.settings.model
    if own.folder:
        return model_folder(str(organisation.path(own.folder)))
    return model_folder(own.name, own.revision, organisation.settings.backend.source)


def sent_settings(frame: Frame) -> RunConfig:
    """Return the run's settings in a request, as the server sent them.

    Raises:
        ProtocolError: there are none, or they are not possible.
    """
    values = frame.fields.get("config")
    if not isinstance(values, dict):
        raise ProtocolError("header", "the request has no settings")
    try:
        return RunConfig().with_values(cast("dict[str, object]", values))
    except ConfigError as error:
        raise ProtocolError("config", f"the run's settings are not possible: {error}") from error
