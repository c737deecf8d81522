"""Calling a function that a model wrote, and reading what it returned."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ....common.errors import ConfigError
from .levels import Sandbox, best, unsandboxed
from .process import Ended

MAX_CODE = 100_000
"""Characters of code; more is refused before it runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one run may use."""

    seconds: float = 5.0
    """Wall clock for all calls together, the interpreter's start included."""
    memory_bytes: int = 512 << 20
    """Address space."""
    file_bytes: int = 1 << 20
    """Of any one file."""
    output_bytes: int = 1 << 20
    """Of all returned values, as JSON."""


@dataclass(frozen=True, slots=True)
class Returned:
    """A call returned a value that JSON can say."""

    value: Any


@dataclass(frozen=True, slots=True)
class Raised:
    """A call returned nothing that counts: the name of what it raised."""

    error: str


Outcome = Returned | Raised


def call(
    code: str, function: str, arguments: Sequence[str], *, limits: Limits | None = None, unsafe: bool = False
) -> list[Outcome]:
    """Run code in a sandbox of its own, and call a function that it defines.

    Args:
        code: what the model wrote; it is compiled in the sandbox.
        function: a name that the code defines.
        arguments: for each call, its positional arguments as a JSON list.
        unsafe: run it all the same where this machine has no sandbox: with limits on time and memory, and with all
            rights of this account.

    Returns:
        One outcome per call. `Raised` for all of them where the code does not come to its end: `TimeLimit`,
        `OutputLimit`, `Died`, or the name of what the code raised.

    Raises:
        ConfigError: there is no sandbox here, and `unsafe` is not set.
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
    """The sandbox that model-written code runs in here.

    Raises:
        ConfigError: there is none, and `unsafe` is not set; says what is missing.
    """
    found = best()
    if isinstance(found, Sandbox):
        return found
    if not unsafe:
        raise ConfigError(
            f"This machine has no sandbox for model-written code ({found.removeprefix('none: ')}). Install bubblewrap "
            "0.8 or newer, allow unprivileged user namespaces, or leave code-tests out of the rewards. Whoever accepts "
            "that such code may read and send everything this account can writes code-tests-unsafe instead."
        )
    return unsandboxed()


def _outcomes(ended: Ended, calls: int) -> list[Outcome]:
    """What the sandbox said, or why it said nothing. It is hostile: any text is read without harm."""
    nothing = {"time": "TimeLimit", "output": "OutputLimit"}.get(ended.why)
    if nothing:
        return [Raised(nothing)] * calls
    try:
        said = json.loads(ended.output, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return [Raised("Died")] * calls
    if not isinstance(said, list) or len(said) != calls:
        return [Raised(_name(said))] * calls
    return [Returned(each[0]) if isinstance(each, list) and len(each) == 1 else Raised(_name(each)) for each in said]


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _name(said: Any) -> str:
    return said[:64] if isinstance(said, str) else "Died"
