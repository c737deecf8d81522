"""Ed25519 identities (RFC 8032): of each organisation and of the server.

The private key is a PEM file that only its owner may read. The public one is one line of text in OpenSSH's format,
which survives being sent by mail: `ssh-ed25519 AAAA... NAME`. It is the same line in the manifest.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ..errors import ConfigError
from ..storage.new_files import write_new, write_private
from . import public_key

SUFFIX = ".identity"
"""Of private identity keys, by convention; the public half has `.identity.pub`."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A private identity key."""

    _key: Ed25519PrivateKey

    @classmethod
    def generate(cls) -> Identity:
        """Make a new identity."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def read(cls, path: Path) -> Identity:
        """Read a private key.

        Raises:
            ConfigError: the file is missing, no unencrypted Ed25519 key, or open to other accounts.
        """
        try:
            mode, data = path.stat().st_mode, path.read_bytes()
        except OSError as error:
            raise ConfigError(
                f"Cannot read the identity key {path}: {error.strerror}. `fedgrpo keys identity` makes one."
            ) from error
        if mode & 0o077:
            raise ConfigError(
                f"The identity key {path} is open to other accounts (mode {mode & 0o777:o}), and who reads it can sign "
                f"as its owner. Close it: chmod 600 {path}"
            )
        try:
            key = serialization.load_pem_private_key(data, None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ConfigError(
                f"{path} is not an unencrypted private key in PEM. `fedgrpo keys identity` makes one."
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError(
                f"{path} is not an Ed25519 key. (A node's key is another: `fedgrpo keys identity` makes this one.)"
            )
        return cls(key)

    def write(self, path: Path) -> Path:
        """Write a new private key, and its public half to `path`.pub, which is returned.

        Raises:
            ConfigError: one of the two exists, or cannot be written.
        """
        public = path.with_name(path.name + ".pub")
        if public.exists():  # both or neither: a public key that is not this one's would be sent by mistake
            raise ConfigError(f"{public} exists already and is not overwritten. Move it away if it should go.")
        none = serialization.NoEncryption()
        pem = self._key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, none)
        write_private(path, pem)
        write_new(public, f"{public_key.as_text(self.public)} {path.name.removesuffix(SUFFIX)}\n".encode())
        return public

    @property
    def public(self) -> bytes:
        """Return the public key, 32 bytes."""
        return self._key.public_key().public_bytes_raw()

    def sign(self, data: bytes) -> bytes:
        """Return the signature of `data`, 64 bytes."""
        return self._key.sign(data)


def verify(public: bytes, signature: bytes, data: bytes) -> bool:
    """Return whether `signature` is of `data` by the owner of a key that `public_key.check` accepted."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True
