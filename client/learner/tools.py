"""Tools and environments that a policy may use during a completion: Python files of the organisation, like its rewards.

tools.py         every public function of a file is a tool: it has type hints, and a docstring with its arguments
env.py:Shop      a class; each rollout has an instance, `reset(**row)` begins it, its public methods are tools, and
                 `get_reward()`, if it has one, is a reward

A tool runs in the learner's process, as a reward does. Its output is part of the conversation that the rewards see; it
stays on this machine, and the loss does not cover it. No torch, no TRL.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...common.errors import ConfigError
from .rewards import Reward
from .rewards.own_files import describe, import_file, own_callables, own_functions

Tool = Callable[..., Any]
NOT_TOOLS = ("reset", "get_reward")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolBox:
    """The tools and the environment of a policy."""

    tools: tuple[Tool, ...] = ()
    environment: Callable[[], Any] | None = None
    turns: int = 0
    """Rounds of tool calls in one completion at most; 0 is limited by the completion's length only."""
    sources: tuple[str, ...] = ()
    """Files that the tools came from."""

    def __bool__(self) -> bool:
        return bool(self.tools) or self.environment is not None

    def rewards(self) -> tuple[Reward, ...]:
        """Return the environment's reward, if it has one, under its class's name."""
        if self.environment is None or not callable(getattr(self.environment, "get_reward", None)):
            return ()
        return (Reward(self.environment.__name__, 1.0, _environment_rewards, self.sources[-1]),)


def load_tools(tools: str, environment: str, turns: int) -> ToolBox:
    """Load the tools of a file and the environment of another; an empty text stands for none.

    Raises:
        ConfigError: a file cannot be imported, or a function or method cannot be a tool; names it and the reason.
    """
    functions = _functions(Path(tools).expanduser()) if tools else ()
    environment_class = _environment(environment) if environment else None
    methods = _methods(environment_class, environment) if environment_class else []
    for source, function in [*((tools, f) for f in functions), *((environment, m) for m in methods)]:
        _check(source, function)
    names = [tool.__name__ for tool in (*functions, *methods)]
    duplicates = [name for name in names if names.count(name) > 1]
    if duplicates:
        raise ConfigError(
            f"There are two tools named {duplicates[0]}. A policy calls a tool by its name, so rename one."
        )
    sources = tuple(text.partition(":")[0] for text in (tools, environment) if text)
    return ToolBox(tools=functions, environment=environment_class, turns=turns, sources=sources)


def _environment_rewards(
    completions: Sequence[Any], environments: Sequence[Any] | None = None, **_: object
) -> list[float]:
    """Return the reward of each rollout's environment; 0 when rewards are only tried, without environments."""
    if environments is None:
        return [0.0] * len(completions)
    return [environment.get_reward() for environment in environments]


def _functions(path: Path) -> tuple[Tool, ...]:
    module = import_file(path, "tool")
    functions = tuple(function for _, function in own_functions(module))
    others = {name: each for name, each in own_callables(module).items() if each not in functions}
    if others:  # without a name, type hints and a docstring of its own the policy could not be shown it
        name, other = next(iter(others.items()))
        raise ConfigError(
            f"The tool {name} in {path} is {describe(other)}, not a function written with def. Write one, or begin the "
            "name with _ if it is not a tool."
        )
    if not functions:
        raise ConfigError(f"{path} defines no public function, so it has no tools.")
    return functions


def _environment(spec: str) -> Callable[[], Any]:
    file, mark, name = spec.rpartition(":")
    if not mark or not file.endswith(".py"):
        raise ConfigError(f"The environment {spec!r} is not of the form FILE.py:CLASS, as in shop.py:Shop.")
    environment = getattr(import_file(Path(file).expanduser(), "tool"), name, None)
    if not inspect.isclass(environment):
        raise ConfigError(
            f"{file} has no class {name}. An environment is a class, and each rollout creates an instance."
        )
    if not inspect.isfunction(getattr(environment, "reset", None)):
        raise ConfigError(f"The environment {name} in {file} has no method reset(self, **row), which begins a rollout.")
    return environment


def _methods(environment: Callable[[], Any], source: str) -> list[Tool]:
    """Return the tools of an instance, as the policy sees them."""
    if inspect.iscoroutinefunction(getattr(environment, "get_reward", None)):
        raise ConfigError(f"The environment {source} has an async get_reward. Make it a plain method.")
    try:
        instance = environment()
    except Exception as error:
        raise ConfigError(
            f"The environment {source} cannot be created: {environment.__name__}() raised {error!r}."
        ) from error
    names = [name for name, _ in inspect.getmembers(environment, inspect.isfunction) if name not in NOT_TOOLS]
    return [getattr(instance, name) for name in names if not name.startswith("_")]


def _check(source: str, function: Tool) -> None:
    """Check that the tool's JSON schema, by which the policy knows it, can be generated."""
    from transformers.utils.chat_template_utils import (
        DocstringParsingException,
        TypeHintParsingException,
        get_json_schema,
    )

    try:
        get_json_schema(function)
    except (DocstringParsingException, TypeHintParsingException, NameError, ValueError) as error:
        # NameError: a type hint that is imported for type checkers only; ValueError: choices that are not JSON.
        raise ConfigError(
            f"The tool {function.__name__} in {source} cannot be shown to the policy: {error} A tool needs a type hint "
            "for every argument, and a docstring: what it does, then 'Args:' with a line 'name: meaning' for each."
        ) from error
