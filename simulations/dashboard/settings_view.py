"""A run's settings as the dashboard shows them, those of another version included, which may have others than ours."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from ...common.errors import ConfigError, RunError
from ...common.foreign import printable
from ...common.settings.automatic_method import AUTO
from ...common.settings.run_config import RunConfig, load_scenario

DEFAULTS = RunConfig().flat()


class SettingsView:
    """The settings in a run's file, read once."""

    def __init__(self, file: Path) -> None:
        """Read the file.

        Raises:
            RunError: it is missing or not TOML.
        """
        self._file = file
        try:
            tables = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{file} cannot be read: {error}") from error
        sections = {name: values for name, values in tables.items() if isinstance(values, dict)}
        self._values: dict[str, Any] = {
            f"{name}.{key}": v for name, values in sections.items() for key, v in values.items()
        }

    def __getitem__(self, name: str) -> Any:
        """Return a setting, or this version's default."""
        return self._values.get(name, DEFAULTS[name])

    @property
    def method(self) -> str:
        """Return the aggregation method; `auto` where the settings of another version cannot be resolved."""
        named = str(self["aggregation.method"])
        try:
            return load_scenario(self._file).method_name if named == AUTO else named
        except ConfigError:
            return named

    def changed(self) -> dict[str, str]:
        """Return the settings that are not the defaults'."""
        own = {key: value for key, value in self._values.items() if not key.startswith("output.")}
        changed = {key: value for key, value in sorted(own.items()) if value != DEFAULTS.get(key)}
        return {printable(key): printable(str(value)) for key, value in changed.items()}
