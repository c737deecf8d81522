"""A client's reward set: built-in functions by name, with weights, or the functions of the organisation's own file.

gsm8k                                  a named set
correctness=1,strict-format=0.5        built-in functions with weights
rewards.py                             every public function of a file, in TRL's signature
rewards.py:cites_source=2,correctness  one function of a file with a weight, and a built-in one
"""

from __future__ import annotations

import asyncio
import difflib
import importlib.util
import inspect
import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ....common.errors import ConfigError, FedGRPOError, RewardError
from ..data.answers import last_said
from .catalogue import FUNCTIONS, SETS

RewardFunction = Callable[..., Sequence[float | None]]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
LARGEST = 1e6
"""Of a reward and of a weight: more is a mistake, and float32 loses the small rewards beside it."""


@dataclass(frozen=True)
class Reward:
    """One reward function, checked at every call. TRL calls it and names its metrics by `__name__`."""

    name: str
    weight: float
    function: RewardFunction
    source: str
    """`built-in`, or the file the function stands in."""

    @property
    def __name__(self) -> str:
        return self.name

    def __call__(self, *, completions: Sequence[Any], **columns: Any) -> list[float | None]:
        """Rewards of some completions; None leaves a completion out of this reward.

        Raises:
            RewardError: the function raised, or returned something else than a finite number or None for each
                completion. Names the function, its file and the row, and quotes what was raised: it may hold private
                text, and stays on this machine.
            ConfigError: a built-in function needs what is not installed here: a library, a sandbox.
        """
        given = [last_said(c) for c in completions] if self.source == "built-in" else completions
        try:
            result = self.function(completions=given, **columns)
            found = asyncio.run(result) if inspect.isawaitable(result) else result  # pyright: ignore[reportArgumentType]
            rewards = [None if reward is None else float(reward) for reward in found]
        except FedGRPOError:  # says itself what is missing here
            raise
        except (Exception, SystemExit) as error:
            where = _line_of(error, self.source)
            raise RewardError(f"The reward {self.name} ({self.source}{where}) raised {_said(error)}.") from error
        if len(rewards) != len(completions):
            raise RewardError(
                f"The reward {self.name} ({self.source}) returned {len(rewards)} rewards for {len(completions)} "
                "completions. It must return one number, or None, for each."
            )
        bad = [row for row, r in enumerate(rewards) if r is not None and not abs(r) <= LARGEST]
        if bad:
            raise RewardError(
                f"The reward {self.name} ({self.source}) returned {rewards[bad[0]]} for completion {bad[0]} of "
                f"{len(rewards)}. Return a number within +-{LARGEST:g}, or None where the reward does not apply."
            )
        return rewards


def load_rewards(spec: str) -> tuple[Reward, ...]:
    """The rewards that a line like those on top of this file names.

    Raises:
        ConfigError: an unknown name, a file that cannot be read or has no such function, a weight that is no number.
    """
    rewards: list[Reward] = []
    for part in (p.strip() for p in spec.split(",")):
        target, _, weight_text = part.partition("=")
        weight = _weight(part, weight_text)
        rewards += _named_or_file(target.strip(), weight)
    names = [reward.name for reward in rewards]
    odd = [name for name in names if not NAME.fullmatch(name)]
    if odd:
        raise ConfigError(f"The reward {odd[0]!r} needs a name of at most 64 English letters, digits and underscores.")
    if not names or len(set(names)) != len(names):
        raise ConfigError(f"The rewards {spec!r} name nothing, or a function twice.")
    return tuple(rewards)


def absolute_paths(spec: str, folder: Path = Path()) -> str:
    """Return a line like those on top of this file with the paths of Python files made absolute.

    Args:
        folder: what the paths are relative to; the working directory unless a file holds the line.
    """
    parts = [part.strip() for part in spec.split(",")]
    return ",".join(str((folder / Path(p).expanduser()).absolute()) if ".py" in p else p for p in parts)


def try_rewards(rewards: Sequence[Reward], row: dict[str, Any]) -> None:
    """Score a few made-up completions of a real row, so that a broken reward is found before a model is loaded.

    Raises:
        RewardError: one of them fails.
    """
    texts = ["<reasoning>\n1+1=2\n</reasoning>\n<answer>\n2\n</answer>", "<think>1</think>2", "two", ""]
    row = {**row, "truncated": False}
    columns = {key: [value] * len(texts) for key, value in row.items() if key != "prompt"}
    for reward in rewards:
        reward(
            prompts=[row["prompt"]] * len(texts),
            completions=[[{"role": "assistant", "content": text}] for text in texts],
            completion_ids=[[0]] * len(texts),
            **columns,
            trainer_state=None,
            log_extra=lambda *_: None,
            log_metric=lambda *_: None,
        )


def _named_or_file(target: str, weight: float) -> list[Reward]:
    if target in SETS:
        return [Reward(n, w * weight, FUNCTIONS[n], "built-in") for n, w in SETS[target].items()]
    if target in FUNCTIONS:
        return [Reward(target, weight, FUNCTIONS[target], "built-in")]
    path, _, function = target.partition(":")
    if not path.endswith(".py"):
        known = [*SETS, *FUNCTIONS]
        close = difflib.get_close_matches(target, known, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise ConfigError(
            f"There is no reward {target!r}.{hint} Known are {', '.join(known)}, or the path of a Python file."
        )
    found = dict(own_functions(import_file(Path(path).expanduser(), "reward")))
    if function and function not in found:
        raise ConfigError(f"{path} has no function {function}. It has: {', '.join(found) or 'none'}.")
    chosen = {function: found[function]} if function else found
    if not chosen:
        raise ConfigError(f"{path} defines no public function, so there is no reward in it.")
    return [Reward(name.replace("_", "-"), weight, f, path) for name, f in chosen.items()]


def import_file(path: Path, kind: str) -> ModuleType:
    """Import a Python file of the organisation's own.

    Args:
        kind: what it is, for messages: `reward`, `tool`.

    Raises:
        ConfigError: there is none, or it raises as it is imported; says what, and in which line.
    """
    if not path.is_file():
        raise ConfigError(f"There is no {kind} file {path}.")
    spec = importlib.util.spec_from_file_location(f"organisation_{kind}s_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look a class's module up here
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"The {kind} file {path} cannot be imported: {_said(error)}{_line_of(error, str(path))}."
        ) from error
    return module


def own_functions(module: ModuleType) -> list[tuple[str, Callable[..., Any]]]:
    """(name, function) of each public function that a file defines itself, in its order."""
    found = inspect.getmembers(module, inspect.isfunction)
    own = [(n, f) for n, f in found if f.__module__ == module.__name__ and not n.startswith("_")]
    return sorted(own, key=lambda pair: pair[1].__code__.co_firstlineno)


def _weight(part: str, text: str) -> float:
    try:
        weight = float(text) if text else 1.0
    except ValueError:
        weight = math.nan
    if not abs(weight) <= LARGEST:
        raise ConfigError(f"In the rewards, {part!r} has the weight {text!r}, which is no number within +-{LARGEST:g}.")
    return weight


def _said(error: BaseException) -> str:
    """What was raised, in at most 300 characters, whatever its own repr does."""
    try:
        if isinstance(error, SyntaxError):  # its repr is a tuple of the file's text; this names file and line
            return f"SyntaxError: {error}"[:300]
        return repr(error)[:300]
    except Exception:
        return type(error).__name__


def _line_of(error: BaseException, source: str) -> str:
    trace, line = error.__traceback__, None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename.endswith(Path(source).name):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f", line {line}" if line else ""
