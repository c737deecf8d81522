"""Hooks of the documentation site: pages made from the code, files of the repository's root, and links to both.

Settings come from the dataclasses in `common/settings`, so that no page of them can be out of date.
"""

from __future__ import annotations

import ast
import inspect
import posixpath
import re
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from fedgrpo.common.settings.run_config import RunConfig
from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
FROM_ROOT = {"CHANGELOG.md": "CHANGELOG.md", "CONTRIBUTING.md": "CONTRIBUTING.md", "overview.md": "README.md"}
"""Page -> file of the repository's root."""
PYTHON = """# Python API

::: fedgrpo.simulations.api.simulation.simulate
::: fedgrpo.simulations.api.simulation.scenarios
::: fedgrpo.simulations.api.simulation.settings
::: fedgrpo.simulations.api.evaluation.evaluate
::: fedgrpo.simulations.api.run.Run
"""
LAYERS = ("common", "server", "client", "simulations")
LAID_OUT = ROOT / ".site-package" / "fedgrpo"
"""Where the package is laid out while the site is built; mkdocs.yml names it."""
FOLDERS = {"docs": "README.md", "docs/decisions": "decisions/001-agreement-on-the-adapter.md"}
"""What a link to a folder means on the site."""
LINK = re.compile(r"(?P<image>!?)\[(?P<shown>(?:[^\[\]]|\[[^\[\]]*\](?:\([^()]*\))?)*)\]\((?P<target>[^)\s]+)\)")


def on_config(config: Any) -> Any:
    """Put the files that a pattern of the navigation means in its place."""
    docs = Path(config.docs_dir)

    def expanded(entry: Any) -> Any:
        if isinstance(entry, dict):
            return {title: expanded(inside) for title, inside in entry.items()}
        if isinstance(entry, list):
            return [expanded(each) for each in entry]
        found = sorted(docs.glob(entry)) if "*" in entry else []
        return [{_title(path): path.relative_to(docs).as_posix()} for path in found] if found else entry

    config.nav = expanded(config.nav)
    return config


def on_startup(command: str, dirty: bool) -> None:
    """Lay the package out as it is imported, for mkdocstrings, which reads files: `pyproject.toml` maps its folders."""
    on_shutdown()
    LAID_OUT.mkdir(parents=True)
    for path in [*(ROOT / "fedgrpo").glob("*.py"), *(ROOT / name for name in LAYERS)]:
        (LAID_OUT / path.name).symlink_to(path)


def on_shutdown() -> None:
    """Remove that layout."""
    shutil.rmtree(LAID_OUT.parent, ignore_errors=True)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are not in `docs`."""
    pages = {page: (ROOT / source).read_text(encoding="utf-8") for page, source in FROM_ROOT.items()}
    pages |= {"reference/settings.md": settings_page(), "reference/python.md": PYTHON}
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Point links to where the site has the page; a link to a file that it does not have becomes its path."""
    source = page.file.src_uri
    base = "" if source in FROM_ROOT else "docs/"
    known = {file.src_uri for file in files}
    from_root = {name: page for page, name in FROM_ROOT.items()}

    def pointed(match: re.Match[str]) -> str:
        shown, (target, mark, anchor) = LINK.sub(pointed, match["shown"]), match["target"].partition("#")
        if not target or "://" in target:
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(base + source), target))
        inside = FOLDERS.get(path) or from_root.get(path) or path.removeprefix("docs/")
        if inside not in known and (ROOT / path).exists():
            return f"{shown} (`{path}`)"
        return f"{match['image']}[{shown}]({posixpath.relpath(inside, posixpath.dirname(source) or '.')}{mark}{anchor})"

    return LINK.sub(pointed, markdown)


def settings_page() -> str:
    """Return the reference of all settings: name, default and meaning."""
    lines = [
        "# Settings",
        "",
        "Every setting of a run, in a scenario file or by `--set NAME=VALUE`, with its default.",
        "",
    ]
    kinds = get_type_hints(RunConfig)
    defaults = RunConfig().flat()
    for section in fields(RunConfig):
        kind = kinds[section.name]
        about, meanings = _documented(kind)
        lines += [f"## {section.name.replace('_', '-')}", "", about, "", "| setting | default | |", "|---|---|---|"]
        for setting in fields(kind):
            name = f"{section.name}.{setting.name}".replace("_", "-")
            if name in defaults:
                meaning = meanings.get(setting.name, "").replace("|", "\\|")
                lines.append(f"| `{name}` | `{_value(defaults[name])}` | {meaning} |")
        lines.append("")
    return "\n".join(lines)


def _documented(kind: type) -> tuple[str, dict[str, str]]:
    """Return what a dataclass is for, and each of its fields: the string after it."""
    tree = ast.parse(inspect.getsource(kind)).body[0]
    assert isinstance(tree, ast.ClassDef)
    meanings: dict[str, str] = {}
    for one, after in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name) and (text := _text(after)):
            meanings[one.target.id] = text
    return " ".join((ast.get_docstring(tree) or "").split()), meanings


def _text(node: ast.stmt) -> str:
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    return " ".join(node.value.value.split()) if is_text else ""


def _value(value: object) -> str:
    return '""' if value == "" else str(value).lower() if isinstance(value, bool) else str(value)


def _title(path: Path) -> str:
    if path.name == "table.md":
        return path.parent.name
    return path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
