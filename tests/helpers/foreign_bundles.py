"""App bundles that no organisation has accepted. Code in them leaves a mark where it is run, and does nothing else."""

from __future__ import annotations

import hashlib
import io
import py_compile
import stat
import zipfile
from pathlib import Path
from typing import Any

from fedgrpo.common.settings.bundle import app_files, installed_bundle

PROJECT, STUB, OTHER = "pyproject.toml", "client/app.py", "client/other.py"
FLOWER_RUNS = ("another module", "another entry point", "duplicate entries", "compiled code alone")
"""Of these, Flower's own executor runs the code."""


def marking(mark: Path, name: str, rest: str = "") -> bytes:
    """Python that leaves a mark, then does what `rest` says."""
    return f"open({str(mark)!r}, 'a').write({name!r} + chr(10))\n{rest}\n".encode()


def packed(files: dict[str, bytes], *, compressed=False, also=()) -> bytes:
    """A bundle as `flwr build` makes it, with its list of hashes, and before them entries that are not on that list."""
    content = "\n".join(f"{name},{hashlib.sha256(data).hexdigest()},{len(data) * 8}" for name, data in files.items())
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as bundle:
        for entry, data in (*also, *files.items(), (".info/CONTENT", content.encode())):
            bundle.writestr(entry, data)
    return buffer.getvalue()


def foreign_bundles(mark: Path, folder: Path) -> dict[str, bytes]:
    """Name -> bundle. Each differs from the accepted one in the way that its name says."""
    ours, accepted = app_files(), installed_bundle()
    stub, project = ours[STUB].decode(), ours[PROJECT].decode()

    def code(name: str, rest: str = "") -> bytes:
        return marking(mark, name, rest)

    def with_files(more: dict[str, bytes], **options: Any) -> bytes:
        return packed({**ours, **more}, **options)

    def with_project(old: str, new: str, more: dict[str, bytes] | None = None) -> bytes:
        assert old in project
        return with_files({PROJECT: project.replace(old, new, 1).encode(), **(more or {})})

    compiled = folder / "app.pyc"
    (folder / "app.py").write_bytes(code("compiled code alone"))
    py_compile.compile(str(folder / "app.py"), str(compiled))
    link = zipfile.ZipInfo("client/linked.py")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with_hooks = '[build-system]\nrequires = []\nbuild-backend = "hooks"\nbackend-path = ["."]\n\n[project]\n'
    needs = f'dependencies = ["other @ file://{folder}"]\ndescription'
    components, agent = "[tool.flwr.app.components]\n", 'agentapp = "client.other:app"\n'
    at = accepted.index(b"A stub on purpose")
    without_stub = {name: data for name, data in ours.items() if name != STUB}
    return {
        "a changed stub": with_files({STUB: code("a changed stub", stub)}),
        "another module": with_files({STUB: f"import client.other\n{stub}".encode(), OTHER: code("another module")}),
        "another entry point": with_project("client.app", "client.other", {OTHER: code("another entry point", stub)}),
        "a package of our name": with_files({"fedgrpo/__init__.py": code("a package of our name")}),
        "duplicate entries": with_files({STUB: code("duplicate entries", stub)}, also=[(STUB, ours[STUB])]),
        "an entry more than once": packed(ours, also=[(STUB, code("an entry more than once"))]),
        "a hook of Python's start": with_files({"sitecustomize.py": code("a hook of Python's start")}),
        "a path file": with_files({"other.pth": b"import os; " + code("a path file")}),
        "a module of the standard library's name": with_files({"json.py": code("a module of that name")}),
        "build hooks": with_project("[project]\n", with_hooks, {"hooks.py": code("build hooks")}),
        "a dependency": with_project("description", needs, {"setup.py": code("a dependency")}),
        "another app's name": with_project('= "fedgrpo"', '= "other"', {STUB: code("another app's name", stub)}),
        "other settings": with_project("rounds = 10", "rounds = 11"),
        "a path that leads out": packed(ours, also=[("../outside.py", code("a path that leads out"))]),
        "an absolute path": packed(ours, also=[(str(folder / "outside.py"), code("an absolute path"))]),
        "a symbolic link": packed(ours, also=[(link, b"/etc/hostname")]),
        "compiled code alone": packed({**without_stub, "client/app.pyc": compiled.read_bytes()}),
        "an enormous file": packed({**ours, OTHER: bytes(200_000_000)}, compressed=True),
        "one byte changed": accepted[:at] + b"a" + accepted[at + 1 :],
        "a byte behind the end": accepted + b"\n",
        "the same files, compressed": packed(ours, compressed=True),
        "an AgentApp": with_project(components, components + agent, {OTHER: code("an agent")}),
        "nothing": b"",
        "no zip file": b"#!/bin/sh\necho no zip file >>" + str(mark).encode() + b"\n",
    }
