"""Tables of what is chosen by name: the built-in entries, and those that installed packages register.

A package registers an entry by an entry point, as plug-ins of pytest do (docs/plugins.md):

    [project.entry-points."fedgrpo.robust_rules"]
    norm-filter = "my_package.rules:NORM_FILTER"

Names are read from the metadata of the installed packages. A plug-in is imported when its name is used.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Generic, TypeVar, cast

from .errors import ConfigError

Entry = TypeVar("Entry")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class Table(Mapping[str, Entry], Generic[Entry]):
    """Entries by name: the built-in ones first, then those of plug-ins in alphabetical order."""

    def __init__(
        self,
        group: str,
        built_in: Mapping[str, Entry],
        complaint: Callable[[object], str],
        *,
        reserved: tuple[str, ...] = (),
    ) -> None:
        """Make a table.

        Args:
            group: the entry points' group.
            complaint: what an object of a plug-in lacks to be an entry; empty for one that is an entry.
            reserved: further values of the setting, which name no entry: a plug-in must not take them.
        """
        self.group, self.built_in = group, MappingProxyType(dict(built_in))
        self._complaint, self._reserved = complaint, reserved

    def __getitem__(self, name: str) -> Entry:
        if name in self.built_in:
            return self.built_in[name]
        return self._load(self._installed()[name])

    def __iter__(self) -> Iterator[str]:
        yield from self.built_in
        yield from self._installed()

    def __len__(self) -> int:
        return len(self.built_in) + len(self._installed())

    def __contains__(self, name: object) -> bool:
        return name in self.built_in or name in self._installed()

    def choose(self, setting: str, name: str) -> Entry:
        """Return the entry that a setting names.

        Raises:
            ConfigError: it does not exist (the nearest is named), its plug-in is broken, or two packages use one name.
        """
        self._installed()  # a package that takes a built-in name is refused, not ignored
        if name not in self:
            possible = ", ".join([*self._reserved, *self])
            raise ConfigError(
                f"{setting} is {name!r}, but must be one of: {possible}.{self.nearest(name)} If it comes with "
                f"a plug-in ({self.group}), install that package here too."
            )
        return self[name]

    def nearest(self, name: str) -> str:
        """Return ` Did you mean ...?`, or an empty text."""
        close = difflib.get_close_matches(name, [*self._reserved, *self], n=1)
        return f" Did you mean {close[0]}?" if close else ""

    def _installed(self) -> Mapping[str, EntryPoint]:
        return _plugins(self.group, (*self.built_in, *self._reserved), tuple(sys.path))

    def _load(self, plugin: EntryPoint) -> Entry:
        what = f"The plug-in {plugin.name} ({self.group}) of the package {_package(plugin)}"
        remedy = f"Repair the package, or remove it: pip uninstall {_package(plugin)}"
        try:
            entry = plugin.load()
        except (Exception, SystemExit) as error:  # another's code: whatever it raises is a fault of that package
            raise ConfigError(f"{what} cannot be loaded from {plugin.value}: {error!r:.300}. {remedy}") from error
        complaint = self._complaint(entry)
        if complaint:
            raise ConfigError(f"{what} is not usable: {plugin.value} {complaint}. {remedy}")
        return cast(Entry, entry)


@cache
def _plugins(group: str, taken: tuple[str, ...], path: tuple[str, ...]) -> Mapping[str, EntryPoint]:
    """The plug-ins of a group by name, not imported. Read once for each `sys.path`."""
    plugins: dict[str, EntryPoint] = {}
    for plugin in sorted(entry_points(group=group), key=lambda e: (e.name, _package(e))):
        name, package = plugin.name, _package(plugin)
        if not NAME.fullmatch(name):
            raise ConfigError(
                f"The package {package} registers the name {name!r} in {group}. A name has at most 64 English "
                f"letters, digits, hyphens and underscores. Rename it there, or remove it: pip uninstall {package}"
            )
        other = "fedgrpo" if name in taken else _package(plugins[name]) if name in plugins else ""
        if other:
            raise ConfigError(
                f"Two packages register {name!r} in {group}: {other} and {package}. Which one is meant would depend "
                f"on chance. Rename one, or remove it: pip uninstall {package}"
            )
        plugins[name] = plugin
    return MappingProxyType(plugins)


def _package(plugin: EntryPoint) -> str:
    return plugin.dist.name if plugin.dist else "(unknown)"
