"""Checks of the way to the federation, shared by `fedgrpo client check` and `fedgrpo client up`."""

from __future__ import annotations

import re
import socket
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from ...common.errors import ConfigError
from ..organisation.settings import OrganisationFile

ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(?P<port>\d{1,5})")


def connection_problems(organisation: OrganisationFile) -> list[str]:
    """Return everything in the file's [flower] section that would keep this client from connecting, with remedies.

    Nothing is contacted: whether the server answers is known only after `client up`.
    """
    problems: list[str] = []
    for check in (_check_address, _check_certificates, _check_key, _check_local_port):
        try:
            check(organisation)
        except ConfigError as error:
            problems.append(str(error))
    return problems


def check_connection(organisation: OrganisationFile) -> None:
    """Refuse a file with which this client cannot connect.

    Raises:
        ConfigError: lists every problem, with what to do about each.
    """
    problems = connection_problems(organisation)
    if problems:
        raise ConfigError("\n".join(problems))


def _check_address(organisation: OrganisationFile) -> None:
    superlink, where = organisation.settings.flower.superlink, f"{organisation.file}: flower.superlink"
    remedy = 'Set it to the HOST:PORT that the operator announced, such as "fed.example.org:8000".'
    if not superlink:
        raise ConfigError(f"{where} is empty. {remedy}")
    match = ADDRESS.fullmatch(superlink)
    if match is None:
        scheme = ", without a scheme or path" if "/" in superlink else ""
        raise ConfigError(f"{where} is {superlink!r}, but must be HOST:PORT{scheme}. {remedy}")
    if not 1 <= int(match["port"]) <= 65535:
        raise ConfigError(f"{where} is {superlink!r}, but a TCP port is from 1 to 65535. {remedy}")


def _check_certificates(organisation: OrganisationFile) -> None:
    path = _file(organisation, "root-certificates", organisation.settings.flower.root_certificates, "the ca.crt")
    remedy = "Ask the operator for ca.crt, and compare its fingerprint: fedgrpo keys show ca.crt"
    try:
        certificates = x509.load_pem_x509_certificates(_read(path, "root-certificates", organisation))
    except ValueError as error:
        raise ConfigError(
            f"{organisation.file}: flower.root-certificates is {path}, which does not hold a PEM certificate. {remedy}"
        ) from error
    if not any(_is_authority(certificate) for certificate in certificates):
        raise ConfigError(
            f"{organisation.file}: flower.root-certificates is {path}, which is not the certificate of a CA (it may be "
            f"the server's own). {remedy}"
        )


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _check_key(organisation: OrganisationFile) -> None:
    path = _file(organisation, "key", organisation.settings.flower.key, "the node's private key")
    data = _read(path, "key", organisation)
    load = serialization.load_ssh_private_key if b"OPENSSH PRIVATE KEY" in data else serialization.load_pem_private_key
    try:
        load(data, None)
    except (ValueError, TypeError) as error:  # TypeError: the key has a password
        raise ConfigError(
            f"{organisation.file}: flower.key is {path}, which is not a private key without password. Make one: "
            "fedgrpo keys node NAME.key, and send NAME.key.pub to the operator."
        ) from error


def _check_local_port(_: OrganisationFile) -> None:
    """The SuperNode's runtime API listens on a port of 127.0.0.1 that is chosen at each start."""
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
    except OSError as error:
        raise ConfigError(
            f"No port of 127.0.0.1 is free for the SuperNode: {error.strerror}. End what listens there."
        ) from error


def _file(organisation: OrganisationFile, key: str, text: str, content: str) -> Path:
    where = f"{organisation.file}: flower.{key}"
    source = "from the operator" if key == "root-certificates" else "made by: fedgrpo keys node NAME.key"
    if not text:
        raise ConfigError(f"{where} is empty. Set it to {content} ({source}).")
    path = organisation.path(text)
    if not path.is_file():
        raise ConfigError(f"{where} is {path}, which does not exist. Put {content} there ({source}).")
    return path


def _read(path: Path, key: str, organisation: OrganisationFile) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{organisation.file}: flower.{key} is {path}, which cannot be read: {error.strerror}. "
            "Let this account read it."
        ) from error
