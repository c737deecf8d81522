"""Reward functions handed over as Python objects: kept as files, so that worker processes and a resume can load them.

A function of a notebook or of `__main__` cannot be imported by another process, and a run that cannot say what its
rewards were cannot be repeated. So its source goes into the run folder and is loaded like any organisation's file.
"""

from __future__ import annotations

import dis
import inspect
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from ...common.errors import ConfigError
from ...common.storage.atomic import write_atomic

RewardFunction = Callable[..., Any]
REMEDY = "Put it into a Python file and give that: rewards='FILE.py'."


def write_inline(function: RewardFunction, folder: Path) -> str:
    """Write a reward function to a file of its own, and return what the setting `simulation.rewards` calls it.

    Raises:
        ConfigError: it is not a plain function, its source is not available, or it uses names from outside.
    """
    if not inspect.isfunction(function) or function.__name__ == "<lambda>":
        what = getattr(function, "__name__", None) or repr(function)
        raise ConfigError(f"The reward {what} is not a function written with def. {REMEDY}")
    name = function.__name__
    text = f"{''.join(_imports(function))}\n\n{_source(function)}"
    path = folder / f"{name}.py"
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise ConfigError(f"Two different rewards are called {name}. Rename one of them.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text.encode())
    except OSError as error:
        raise ConfigError(f"Cannot write the reward {name} to {path}: {error.strerror}.") from error
    return f"{path}:{name}"


def _source(function: RewardFunction) -> str:
    try:
        return textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError) as error:
        raise ConfigError(f"The source of the reward {function.__name__} is not available. {REMEDY}") from error


def _imports(function: RewardFunction) -> Iterator[str]:
    """Yield an import for each module the function uses; other names from outside cannot be kept."""
    yield "from __future__ import annotations\n\n"
    available = {**function.__globals__, **inspect.getclosurevars(function).nonlocals}
    for name in sorted(set(_outside(function.__code__)) & available.keys()):
        value = available[name]
        if not isinstance(value, ModuleType):
            raise ConfigError(
                f"The reward {function.__name__} uses {name}, which is defined outside of it. Define it inside the "
                f"function, or put both into a Python file and give that: rewards='FILE.py:{function.__name__}'."
            )
        yield f"import {value.__name__} as {name}\n"


def _outside(code: CodeType) -> Iterator[str]:
    """Yield the names that a function's code, and the code nested in it, reads from outside."""
    yield from (step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
    yield from code.co_freevars
    for constant in code.co_consts:
        if isinstance(constant, CodeType):  # a comprehension, a lambda or a function
            yield from _outside(constant)
