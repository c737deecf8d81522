"""A client's reward set: functions by name, with weights, or those of the organisation's own file.

gsm8k                                  a named set
correctness=1,strict-format=0.5        built-in functions with weights, or a plug-in's
rewards.py                             every public function (or other callable) of a file, in TRL's signature
rewards.py:cites_source=2,correctness  one function of a file with a weight, and a built-in one
"""

from __future__ import annotations

import asyncio
import inspect
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from ....common.errors import ConfigError, FedGRPOError, RewardError
from ..data.answers import last_said
from .catalogue import BUILT_IN, FUNCTIONS, SETS, RewardFunction
from .own_files import import_file, line_of, own_callables, printing_to_stderr, quoted

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
LARGEST = 1e6
"""Limit of a reward and of a weight: more is a mistake, and float32 loses small rewards beside it."""


@dataclass(frozen=True)
class Reward:
    """One reward function, checked at every call. TRL calls it, and names its metrics by `__name__`."""

    name: str
    weight: float
    function: RewardFunction
    source: str
    """`built-in`, or the file of the function: an organisation's own, or a plug-in's."""

    @property
    def __name__(self) -> str:
        return self.name

    def __call__(self, /, *, completions: Sequence[Any], **columns: Any) -> list[float | None]:
        """Return the rewards of completions; None leaves a completion out of this reward.

        Raises:
            RewardError: the function raised, or returned anything but a finite number or None for each completion.
                The message names the function, its file and the row, and quotes the exception: it may contain private
                text, and stays on this machine.
            ConfigError: a built-in function needs something that is missing here: a library, a sandbox.
        """
        inputs = [last_said(c) for c in completions] if self.source == "built-in" else completions
        try:
            with printing_to_stderr():
                result = self.function(completions=inputs, **columns)
                values = asyncio.run(result) if inspect.isawaitable(result) else result  # pyright: ignore[reportArgumentType]
                rewards = [None if reward is None else float(reward) for reward in values]
        except FedGRPOError:  # its message already says what is missing
            raise
        except (Exception, SystemExit) as error:
            where = line_of(error, self.source)
            raise RewardError(f"The reward {self.name} ({self.source}{where}) raised {quoted(error)}.") from error
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
    """Load the rewards of a specification like those at the top of this file.

    Raises:
        ConfigError: an unknown name, a file that cannot be read or lacks the function, a weight that is not a number.
    """
    rewards: list[Reward] = []
    for part in (p.strip() for p in spec.split(",")):
        target, _, weight_text = part.partition("=")
        weight = _weight(part, weight_text)
        rewards += _named_or_file(target.strip(), weight)
    names = [reward.name for reward in rewards]
    invalid = [name for name in names if not NAME.fullmatch(name)]
    if invalid:
        raise ConfigError(
            f"The reward {invalid[0]!r} needs a name of at most 64 English letters, digits and underscores."
        )
    if not names or len(set(names)) != len(names):
        raise ConfigError(f"The rewards {spec!r} are empty, or name a function twice.")
    return tuple(rewards)


def absolute_paths(spec: str, folder: Path = Path()) -> str:
    """Return a specification like those at the top of this file with absolute paths of Python files.

    Args:
        folder: what the paths are relative to; the working directory unless a file holds the specification.
    """
    parts = [part.strip() for part in spec.split(",")]
    return ",".join(str((folder / Path(p).expanduser()).absolute()) if ".py" in p else p for p in parts)


def try_rewards(rewards: Sequence[Reward], row: dict[str, Any]) -> None:
    """Score a few invented completions of a real row, so that a broken reward is found before a model is loaded.

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
        return [Reward(n, w * weight, BUILT_IN[n], "built-in") for n, w in SETS[target].items()]
    if target in BUILT_IN:
        return [Reward(target, weight, BUILT_IN[target], "built-in")]
    path, _, function = target.partition(":")
    if not path.endswith(".py"):
        return [_of_plugin(target, weight)]
    module = import_file(Path(path).expanduser(), "reward")
    functions = own_callables(module)
    selected = {function: _by_name(module, path, function)} if function else functions
    if not selected:
        raise ConfigError(f"{path} defines no public function, so it has no rewards.")
    return [Reward(name.replace("_", "-"), weight, f, path) for name, f in selected.items()]


def _by_name(module: ModuleType, path: str, name: str) -> RewardFunction:
    """Return what a file calls `name`, imported or its own: any callable but a class."""
    value = getattr(module, name, None)
    if inspect.isclass(value):
        raise ConfigError(f"{name} in {path} is a class. Name an instance of it that can be called: reward = {name}().")
    if not callable(value):
        raise ConfigError(f"{path} has no function {name}. It has: {', '.join(own_callables(module)) or 'none'}.")
    return cast(RewardFunction, value)


def _of_plugin(name: str, weight: float) -> Reward:
    if name not in FUNCTIONS:
        raise ConfigError(
            f"There is no reward {name!r}.{FUNCTIONS.nearest(name)} Known are {', '.join([*SETS, *FUNCTIONS])}, or the "
            "path of a Python file."
        )
    function = FUNCTIONS[name]
    return Reward(name, weight, function, str(inspect.getsourcefile(function)))


def _weight(part: str, text: str) -> float:
    try:
        weight = float(text) if text else 1.0
    except ValueError:
        weight = math.nan
    if not abs(weight) <= LARGEST:
        raise ConfigError(
            f"In the rewards, {part!r} has the weight {text!r}, which is not a number within +-{LARGEST:g}."
        )
    return weight
