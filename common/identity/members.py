"""The members of a federation, and what a manifest may hold, whether it is read or made."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..bounds import NAME
from ..errors import ConfigError
from ..foreign import quoted
from . import public_key

FEWEST, MOST = 3, 100
"""Members. The sum of two tells each of them the other's update, and every pair of members exchanges keys."""
CIPHERS = ("aes-256-ctr", "chacha20")
"""Generators of masks, the functions of which are in `common.secagg.masks`."""
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Member:
    """An organisation of the federation, and its public identity key (32 bytes)."""

    name: str
    key: bytes


def check_name(what: str, value: object) -> str:
    """Return a name, or refuse it; `what` says what it names."""
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise ConfigError(
            f"{what} is {quoted(value)}, but must be at most 64 English letters, digits, dots, hyphens and underscores."
        )
    return value


def check_key(what: str, key: bytes) -> None:
    """Refuse a key that is not sound; `what` says whose it is."""
    try:
        public_key.check(key)
    except ConfigError as error:
        raise ConfigError(f"{what} {error}") from error


def check_members(members: Iterable[Member], server_key: bytes) -> None:
    """Refuse two members of one name, also where only upper and lower case differ, and a key that serves twice."""
    names: dict[str, str] = {}
    owners = {server_key: "the server"}
    for member in members:
        check_name("a member's name", member.name)
        check_key(f"the key of {member.name}", member.key)
        if other := names.get(member.name.lower()):
            also = "" if other == member.name else f", which differs from {other} in upper and lower case only"
            raise ConfigError(f"the name {member.name} is there twice{also}. Every member has a name of its own.")
        if member.key in owners:
            raise ConfigError(
                f"{member.name} has the key of {owners[member.key]}. Every member makes one of its own, with "
                "`fedgrpo keys identity`."
            )
        names[member.name.lower()] = owners[member.key] = member.name


def check_agreed(base_model_sha256: object, cipher: object) -> None:
    """Refuse a hash or a cipher that cannot be agreed on."""
    if base_model_sha256 != "" and not (isinstance(base_model_sha256, str) and SHA256.fullmatch(base_model_sha256)):
        raise ConfigError(
            f"base-model-sha256 is {quoted(base_model_sha256)}, but must be 64 hexadecimal digits in lower case, or "
            "empty. `fedgrpo client check` prints a model's."
        )
    if cipher not in CIPHERS:
        raise ConfigError(f"cipher is {quoted(cipher)}, but must be one of: {', '.join(CIPHERS)}.")


def threshold_of(members: int) -> int:
    """Return how many of a manifest's members must agree on a sum: more than two thirds, t = floor(2 n / 3) + 1.

    Any two sets of t members, of whatever cohorts, share more than n / 3 of them: at least one that is honest if fewer
    than n / 3 are not, and an honest member opens one sum of a round (docs/decisions/017).
    """
    return 2 * members // 3 + 1
