"""Python files of the organisation: importing them, what in them is a reward, and where they print."""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from ....common.errors import ConfigError


def import_file(path: Path, kind: str) -> ModuleType:
    """Import a Python file of the organisation.

    Args:
        kind: its purpose, for messages: `reward`, `tool`.

    Raises:
        ConfigError: the file does not exist, or raises during the import; quotes the exception and its line.
    """
    if not path.is_file():
        raise ConfigError(f"There is no {kind} file {path}.")
    spec = importlib.util.spec_from_file_location(f"organisation_{kind}s_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look a class's module up here
    try:
        with printing_to_stderr():
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"The {kind} file {path} cannot be imported: {quoted(error)}{line_of(error, str(path))}."
        ) from error
    return module


def own_functions(module: ModuleType) -> list[tuple[str, Callable[..., Any]]]:
    """Return (name, function) of each public function that a file defines itself, in its order."""
    members = inspect.getmembers(module, inspect.isfunction)
    public = [(n, f) for n, f in members if f.__module__ == module.__name__ and not n.startswith("_")]
    return sorted(public, key=lambda pair: pair[1].__code__.co_firstlineno)


def own_callables(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """Return each public callable that a file makes itself, by name, in its order.

    That is its functions, also decorated ones, `functools.partial`s, and instances of its own classes; not its classes,
    and nothing that it only imports.
    """
    imported = _imported_names(module)
    public = {name: value for name, value in vars(module).items() if not name.startswith("_") and name not in imported}
    return {name: value for name, value in public.items() if callable(value) and _made_in(module, value)}


def describe(value: Callable[..., Any]) -> str:
    """Return what a callable is, for messages: `a functools.partial`, `an instance of Judge`, `a function`."""
    if isinstance(value, functools.partial):
        return "a functools.partial"
    return "a function" if inspect.isroutine(value) else f"an instance of {type(value).__name__}"


@contextmanager
def printing_to_stderr() -> Iterator[None]:
    """Send what Python code prints to stderr meanwhile: stdout belongs to a command's result. Safe in any thread."""
    with _DIVERSION.lock:
        if not _DIVERSION.depth:
            _DIVERSION.stdout, sys.stdout = sys.stdout, sys.stderr
        _DIVERSION.depth += 1
    try:
        yield
    finally:
        with _DIVERSION.lock:
            _DIVERSION.depth -= 1
            if not _DIVERSION.depth:
                sys.stdout = _DIVERSION.stdout


def quoted(error: BaseException) -> str:
    """Return an exception's repr in at most 300 characters, even if its own `__repr__` fails."""
    try:
        if isinstance(error, SyntaxError):  # its repr contains the file's text; this form names file and line
            return f"SyntaxError: {error}"[:300]
        return repr(error)[:300]
    except Exception:
        return type(error).__name__


def line_of(error: BaseException, source: str) -> str:
    """Return `, line N` for the last line of a file that an exception passed; an empty text without any."""
    trace, line = error.__traceback__, None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename.endswith(Path(source).name):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f", line {line}" if line else ""


class _Diversion:
    """How many threads divert stdout now; contextlib's redirect_stdout of two threads can end in the wrong order."""

    def __init__(self) -> None:
        self.lock, self.depth, self.stdout = threading.Lock(), 0, sys.stdout


_DIVERSION = _Diversion()


def _imported_names(module: ModuleType) -> set[str]:
    """Return the names that import statements bind anywhere in a file."""
    tree = ast.parse(Path(str(module.__file__)).read_bytes())
    statements = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    return {alias.asname or alias.name for statement in statements for alias in statement.names}


def _made_in(module: ModuleType, value: Any) -> bool:
    if inspect.isclass(value) or inspect.isbuiltin(value):
        return False
    if isinstance(value, functools.partial):
        return True
    if inspect.isfunction(value) or hasattr(value, "__wrapped__"):
        home = sys.modules.get(str(value.__module__), module)
        # What `import *` brings is found where it comes from; what a decorator of another file made is not.
        return home is module or all(each is not value for each in vars(home).values())
    owner = value.__self__ if inspect.ismethod(value) else value
    return type(owner).__module__ == module.__name__
