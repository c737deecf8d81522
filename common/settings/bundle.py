"""The app bundle (Flower's FAB) of the installed fedgrpo: what `fedgrpo server submit` has Flower send to every client.

`flwr build` stores the files uncompressed, sorted, with a fixed date, after rewriting pyproject.toml. The same files
therefore make the same bytes with every version of Flower, zlib and Python, and a bundle can be known by its SHA-256:
the one that Flower itself shows and sends. An organisation makes it here, without Flower, from what it has installed;
`tests/server/test_flower_contract.py` compares it with what `flwr build` makes.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from functools import cache
from importlib import resources

from .. import __version__
from .run_config import RunConfig

ABOUT = "Federated GRPO: organisations teach one reasoning model together, and no prompt leaves any of them."
SETTINGS = "pyproject.toml"
STUBS = ("client/app.py", "server/app.py")
DATE = (2024, 10, 1, 0, 0, 0)
"""Of every file in a bundle, as `flwr build` sets it."""


def app_files() -> dict[str, bytes]:
    """Return the app by file name: two stubs that import what each party has installed, and all settings.

    A checkout of the repository is a similar app; this one also exists where fedgrpo was installed as a package.
    """
    stubs = {name: resources.files(f"fedgrpo.{name.split('/')[0]}").joinpath("app.py").read_bytes() for name in STUBS}
    return {SETTINGS: _pyproject().encode(), **stubs}


@cache
def installed_bundle() -> bytes:
    """Return the bundle that `flwr build` makes of `app_files()`, byte for byte."""
    files = app_files()
    content = "\n".join(f"{name},{hashlib.sha256(data).hexdigest()},{len(data) * 8}" for name, data in files.items())
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        for name, data in {**files, ".info/CONTENT": content.encode()}.items():
            bundle.writestr(zipfile.ZipInfo(name, DATE), data)
    return buffer.getvalue()


def installed_sha256() -> str:
    """Return the SHA-256 of the installed fedgrpo's bundle, in hexadecimal digits."""
    return hashlib.sha256(installed_bundle()).hexdigest()


def _pyproject() -> str:
    """Return the app's pyproject.toml in the form that `flwr build` writes it in: nested tables, a line for an item."""
    include = "".join(f"    {json.dumps(name)},\n" for name in STUBS)
    settings = re.sub(r"^\[", "[tool.flwr.app.config.", RunConfig().to_toml(), flags=re.MULTILINE)
    return (
        f'[project]\nname = "fedgrpo"\nversion = "{__version__}"\nlicense = "Apache-2.0"\n'
        f"description = {json.dumps(ABOUT)}\n\n"
        f'[tool.flwr.app]\npublisher = "fedgrpo"\nfab-include = [\n{include}]\n\n'
        '[tool.flwr.app.components]\nserverapp = "server.app:app"\nclientapp = "client.app:app"\n\n'
        f"{settings}"
    )
