"""Packages with plug-ins, importable and with their entry points, without pip."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from checkout import ROOT

EXAMPLE = ROOT / "examples" / "plugin"
Groups = Mapping[str, Mapping[str, str]]


def install(site: Path, name: str, groups: Groups, modules: Mapping[str, str]) -> None:
    """Put a package's modules and the metadata that pip would write for it into a folder.

    Args:
        groups: the entry points' names and objects, by group without `fedgrpo.`.
        modules: text by path.
    """
    for path, text in modules.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text, encoding="utf-8")
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    lines = [f"[fedgrpo.{group}]\n" + "".join(f"{n} = {o}\n" for n, o in own.items()) for group, own in groups.items()]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")


def install_example(site: Path) -> None:
    """Install `examples/plugin` with the entry points of its own pyproject.toml."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text(encoding="utf-8"))
    groups = {g.removeprefix("fedgrpo."): own for g, own in project["project"]["entry-points"].items()}
    files = {str(p.relative_to(EXAMPLE)): p.read_text(encoding="utf-8") for p in EXAMPLE.glob("fedgrpo_example/*.py")}
    install(site, project["project"]["name"], groups, files)


def on_path(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a folder's packages importable for one test; another test's modules of the same names are set aside."""
    site.mkdir(exist_ok=True)
    for name in {path.stem for path in site.iterdir()}:
        for module in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.syspath_prepend(str(site))
