"""Certificates and keys of a federation: a CA, the server's certificate, nodes' identities, shared secrets.

Elliptic curve P-384 throughout, as Flower takes it. Private files are readable by their owner only, and nothing that
exists is ever overwritten.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
import secrets
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ..errors import ConfigError
from ..storage.new_files import write_new, write_private

CA_DAYS, SERVER_DAYS = 3650, 397
LOOPBACK = ("localhost", "127.0.0.1")


def make_authority(folder: Path) -> Path:
    """Make a federation's own CA: `ca.crt`, which every organisation gets, and `ca.key`, which stays."""
    key = ec.generate_private_key(ec.SECP384R1())
    name = _name("fedgrpo federation CA")
    builder = _certificate(name, name, key.public_key(), CA_DAYS)
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(usage, critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    write_private(folder / "ca.key", _pem(key))
    write_new(folder / "ca.crt", builder.sign(key, hashes.SHA384()).public_bytes(serialization.Encoding.PEM))
    return folder / "ca.crt"


def make_server(folder: Path, hosts: Sequence[str]) -> Path:
    """Make the server's certificate, `server.pem` and `server.key`, for the names and addresses clients connect to.

    Raises:
        ConfigError: there is no CA in the folder, or a host is neither a name nor an address.
    """
    for name in ("server.key", "server.pem"):  # both or neither: a pair that does not match serves nobody
        if (folder / name).exists():
            raise ConfigError(
                f"{folder / name} exists already and is not overwritten. Move server.key and server.pem away."
            )
    authority_key, authority = _authority(folder)
    key = ec.generate_private_key(ec.SECP384R1())
    alternatives = [_alternative(host) for host in dict.fromkeys((*hosts, *LOOPBACK))]
    builder = _certificate(_name("fedgrpo server"), authority.subject, key.public_key(), SERVER_DAYS)
    builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    builder = builder.add_extension(issuer, critical=False)
    certificate = builder.sign(authority_key, hashes.SHA384())
    write_private(folder / "server.key", _pem(key))
    write_new(folder / "server.pem", certificate.public_bytes(serialization.Encoding.PEM))
    return folder / "server.pem"


def make_node(path: Path) -> Path:
    """Make a node's identity: `path`, private, and `path`.pub, which the operator registers."""
    if not path.name:
        raise ConfigError("Give the key a file name, such as clinic-a.key.")
    key = ec.generate_private_key(ec.SECP384R1())
    public = path.with_name(path.name + ".pub")
    none = serialization.NoEncryption()
    write_private(path, key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, none))
    ssh = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    write_new(public, ssh + b"\n")
    return public


def make_secret(path: Path) -> Path:
    """Make a random secret of 256 bits."""
    write_private(path, secrets.token_hex(32).encode())
    return path


def fingerprint(path: Path) -> str:
    """SHA-256 of a public key or certificate, to compare over another channel: over the phone, on paper.

    Raises:
        ConfigError: the file is neither.
    """
    try:
        data = path.read_bytes()
        if b"BEGIN CERTIFICATE" in data:
            digest = x509.load_pem_x509_certificate(data).fingerprint(hashes.SHA256())
        else:
            key = serialization.load_ssh_public_key(data)
            der, spki = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            digest = hashlib.sha256(key.public_bytes(der, spki)).digest()
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror}.") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path} is neither a certificate nor a public key (NAME.pub).") from error
    return ":".join(f"{byte:02X}" for byte in digest)


def _authority(folder: Path) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    try:
        key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
        certificate = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder} holds no CA: {error}. Make one: fedgrpo keys ca {folder}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{folder / 'ca.key'} is not an elliptic-curve key.")
    return key, certificate


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - dt.timedelta(minutes=5)).not_valid_after(now + dt.timedelta(days=days))


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError as error:
        raise ConfigError(f"{host!r} is neither a host name nor an IP address.") from error


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    none = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, none)
