"""The federation's manifest: who belongs to it, under which keys, and what they agreed on. A TOML file that travels
outside of the federation, and whose fingerprint every organisation pins in its policy (docs/audit.md).

What an organisation would not notice if the server changed it is in here, and nothing that a run chooses: those are
settings, which every message names by their hash.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..errors import ConfigError
from ..foreign import quoted
from ..storage.atomic import write_atomic
from .encoding import encode
from .manifest_file import VERSION, entry, heading, read_unfinished
from .members import CIPHERS, FEWEST, MOST, Member, check_agreed, check_key, check_members, check_name, threshold_of

__all__ = ["Manifest", "Member"]
CONTEXT = "fedgrpo manifest"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A whole manifest, in which everything has been checked."""

    federation: str
    """The federation's name."""
    server_key: bytes
    """The server's public identity key, 32 bytes."""
    members: tuple[Member, ...]
    """Sorted by name, in whatever order they are given."""
    min_members: int = FEWEST
    """Fewest members whose updates may make a round."""
    base_model_sha256: str = ""
    """The base model that is trained; empty leaves it to each organisation's own file."""
    cipher: str = CIPHERS[0]
    """Generator of the masks in secure aggregation."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "members", tuple(sorted(self.members, key=lambda member: member.name)))
        check_name("federation", self.federation)
        check_key("server-key", self.server_key)
        check_members(self.members, self.server_key)
        count = len(self.members)
        if not FEWEST <= count <= MOST:
            raise ConfigError(
                f"it has {count} members, but a federation has {FEWEST} to {MOST}: with two, each would learn the "
                "other's update from the sum. Add members: fedgrpo manifest add."
            )
        if type(self.min_members) is not int or not FEWEST <= self.min_members <= count:
            raise ConfigError(
                f"min-members is {quoted(self.min_members)}, but must be from {FEWEST} to the number of members, "
                f"{count}: the sum of fewer than {FEWEST} tells one of them another's update."
            )
        check_agreed(self.base_model_sha256, self.cipher)

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read a manifest.

        Raises:
            ConfigError: it is missing, not TOML, or something in it is wrong; names file and place.
        """
        fields = read_unfinished(path)
        try:
            return cls(**fields)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error

    def write(self, path: Path) -> None:
        """Write the manifest so that `read` gives it back."""
        write_atomic(path, self.text.encode())

    @property
    def text(self) -> str:
        """Return the manifest as TOML."""
        head = heading(
            self.federation,
            self.server_key,
            min_members=self.min_members,
            base_model_sha256=self.base_model_sha256,
            cipher=self.cipher,
        )
        return head + "".join(entry(member) for member in self.members)

    @cached_property
    def sha256(self) -> str:
        """Return the fingerprint. It does not depend on the file's order, comments or white space."""
        members = tuple((member.name, member.key) for member in self.members)
        agreed = (self.min_members, self.base_model_sha256, self.cipher)
        data = encode(CONTEXT, VERSION, self.federation, self.server_key, members, *agreed)
        return hashlib.sha256(data).hexdigest()

    @property
    def threshold(self) -> int:
        """Return how many members must agree on a sum, and open it (`threshold_of`)."""
        return threshold_of(len(self.members))

    def key_of(self, name: str) -> bytes:
        """Return a member's public key.

        Raises:
            ConfigError: it is no member.
        """
        for member in self.members:
            if member.name == name:
                return member.key
        raise ConfigError(f"{quoted(name)} is not a member of the federation {self.federation}.")

    def has(self, name: str) -> bool:
        """Return whether an organisation is a member."""
        return any(member.name == name for member in self.members)
