"""Calls of a model-written function in the sandbox, and the reading of its results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ....common.errors import ConfigError
from .levels import Sandbox, best, unsandboxed
from .process import Ended

MAX_CODE = 100_000
"""Characters of code; longer code is refused before it runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of one sandbox run."""

    seconds: float = 5.0
    """Wall-clock time of all calls together, including the start of the interpreter."""
    memory_bytes: int = 512 << 20
    """Limit of the address space."""
    file_bytes: int = 1 << 20
    """Limit of any one file."""
    output_bytes: int = 1 << 20
    """Limit of all returned values, as JSON."""


@dataclass(frozen=True, slots=True)
class Returned:
    """The result of a call: a value that JSON can represent."""

    value: Any


@dataclass(frozen=True, slots=True)
class Raised:
    """A failed call, with the name of the exception or limit."""

    error: str


Outcome = Returned | Raised


def call(
    code: str, function: str, arguments: Sequence[str], *, limits: Limits | None = None, unsafe: bool = False
) -> list[Outcome]:
    """Run code in a new sandbox, and call a function that it defines.

    Args:
        code: the model's code; it is compiled in the sandbox.
        function: name of a function that the code defines.
        arguments: for each call, its positional arguments as a JSON list.
        unsafe: run the code even if this machine has no sandbox: with limits on time and memory, but with all rights of
            this account.

    Returns:
        One outcome per call. `Raised` for all of them if the code does not finish: `TimeLimit`, `OutputLimit`, `Died`,
        or the name of the exception.

    Raises:
        ConfigError: this machine has no sandbox, and `unsafe` is not set.
    """
    sandbox, limits = require(unsafe=unsafe), limits or Limits()
    if len(code) > MAX_CODE:
        return [Raised("CodeLimit")] * len(arguments)
    request = {
        "code": code,
        "function": function,
        "calls": list(arguments),
        "seconds": limits.seconds,
        "memory_bytes": limits.memory_bytes,
        "file_bytes": limits.file_bytes,
    }
    ended = sandbox.run(request, limits.seconds, limits.output_bytes)
    return _outcomes(ended, len(arguments))


def require(*, unsafe: bool = False) -> Sandbox:
    """Return the sandbox for model-written code on this machine.

    Raises:
        ConfigError: there is none, and `unsafe` is not set; names what is missing.
    """
    sandbox = best()
    if isinstance(sandbox, Sandbox):
        return sandbox
    if not unsafe:
        raise ConfigError(
            f"This machine has no sandbox for model-written code ({sandbox.removeprefix('none: ')}). Install "
            "bubblewrap 0.8 or newer, allow unprivileged user namespaces, or leave code-tests out of the rewards. If "
            "you accept that such code may read and send everything this account can, use code-tests-unsafe instead."
        )
    return unsandboxed()


def _outcomes(ended: Ended, calls: int) -> list[Outcome]:
    """Return the outcome of each call from the sandbox's output, which is hostile: any text is read safely."""
    limit = {"time": "TimeLimit", "output": "OutputLimit"}.get(ended.why)
    if limit:
        return [Raised(limit)] * calls
    try:
        results = json.loads(ended.output, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return [Raised("Died")] * calls
    if not isinstance(results, list) or len(results) != calls:
        return [Raised(_name(results))] * calls
    return [Returned(each[0]) if isinstance(each, list) and len(each) == 1 else Raised(_name(each)) for each in results]


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _name(value: Any) -> str:
    return value[:64] if isinstance(value, str) else "Died"
