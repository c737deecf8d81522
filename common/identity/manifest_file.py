"""A manifest's file: TOML, read with every part checked, and written."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from ..errors import ConfigError
from ..foreign import quoted
from . import public_key
from .members import CIPHERS, FEWEST, MOST, Member, check_agreed, check_key, check_members, check_name

VERSION = 1
REMEDY = "`fedgrpo manifest init` and `add` write one."
KEYS = {"version", "federation", "server-key", "min-members", "base-model-sha256", "cipher"}


def read_unfinished(path: Path) -> dict[str, Any]:
    """Read a manifest that may still lack members, as the fields of `Manifest`.

    Raises:
        ConfigError: as of `Manifest.read`, but for the number of members.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"Cannot read the manifest {path}: {error.strerror}. {REMEDY}") from error
    except (ValueError, OverflowError, RecursionError) as error:
        raise ConfigError(f"{path} is not TOML: {error}.") from error
    try:
        return _fields(tables)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def heading(
    federation: str,
    server_key: bytes,
    *,
    min_members: int = FEWEST,
    base_model_sha256: str = "",
    cipher: str = CIPHERS[0],
) -> str:
    """Return the beginning of a manifest as TOML, before its members.

    Raises:
        ConfigError: a value that no manifest may have.
    """
    check_name("federation", federation)
    check_key("server-key", server_key)
    check_agreed(base_model_sha256, cipher)
    return (
        "# A federation's manifest. All members have the same one, and compare its fingerprint over another channel\n"
        "# than the one it came by: fedgrpo manifest fingerprint FILE. Order, comments and spaces do not change it.\n\n"
        "[manifest]\n"
        f"version = {VERSION}\n"
        f'federation = "{federation}"\n'
        f'server-key = "{public_key.as_text(server_key)}"\n'
        f"min-members = {min_members}            # fewest members whose updates make a round\n"
        f'base-model-sha256 = "{base_model_sha256}"     # the model; empty: each member\'s own choice\n'
        f'cipher = "{cipher}"     # of the masks in secure aggregation\n'
    )


def entry(member: Member) -> str:
    """Return a member as TOML."""
    return f'\n[[member]]\nname = "{member.name}"\nkey = "{public_key.as_text(member.key)}"\n'


def check_new(fields: Mapping[str, Any], member: Member) -> None:
    """Refuse a member for which an unfinished manifest, of which these are the fields, has no room.

    Raises:
        ConfigError: its name or key is taken or malformed, or it would be one too many.
    """
    members = (*fields["members"], member)
    check_members(members, fields["server_key"])
    if len(members) > MOST:
        raise ConfigError(f"it has {MOST} members already, which is the most a federation may have.")


def _fields(tables: Mapping[str, Any]) -> dict[str, Any]:
    unknown = sorted(tables.keys() - {"manifest", "member"})
    if unknown:
        raise ConfigError(f"there is no section {quoted(unknown[0])}. A manifest has [manifest] and [[member]].")
    head, entries = tables.get("manifest"), tables.get("member", [])
    if not isinstance(head, dict) or not isinstance(entries, list):
        raise ConfigError(f"it needs one [manifest] section, and a [[member]] section for each member. {REMEDY}")
    values = cast(dict[str, object], head)
    if values.get("version") != VERSION or type(values["version"]) is not int:
        raise ConfigError(
            f"version is {quoted(values.get('version'))}; this fedgrpo reads manifests of version {VERSION}."
        )
    _check_keys("[manifest]", values, KEYS)
    fields: dict[str, Any] = {
        "federation": check_name("federation", values["federation"]),
        "server_key": _key("server-key", values["server-key"]),
        "members": tuple(_member(each, place) for place, each in enumerate(cast(list[object], entries), start=1)),
        "min_members": values["min-members"],
        "base_model_sha256": values["base-model-sha256"],
        "cipher": values["cipher"],
    }
    check_members(fields["members"], fields["server_key"])
    check_agreed(fields["base_model_sha256"], fields["cipher"])
    return fields


def _member(table: object, place: int) -> Member:
    where = f"member {place}"
    if not isinstance(table, dict):
        raise ConfigError(f"{where} is not a section [[member]] with a name and a key.")
    values = cast(dict[str, object], table)
    _check_keys(where, values, {"name", "key"})
    name = check_name(f"the name of {where}", values["name"])
    return Member(name, _key(f"the key of {where}, {name},", values["key"]))


def _check_keys(where: str, values: Mapping[str, object], wanted: Iterable[str]) -> None:
    wanted = set(wanted)
    if missing := sorted(wanted - values.keys()):
        raise ConfigError(f"{where} lacks {missing[0]}. {REMEDY}")
    if unknown := sorted(values.keys() - wanted):
        raise ConfigError(f"{where} has {quoted(unknown[0])}, which is not known. It has {', '.join(sorted(wanted))}.")


def _key(what: str, value: object) -> bytes:
    if not isinstance(value, str):
        raise ConfigError(f"{what} is {quoted(value)}, not the line of a public key file (NAME.identity.pub).")
    try:
        return public_key.from_text(value)
    except ConfigError as error:
        raise ConfigError(f"{what} {error}") from error
