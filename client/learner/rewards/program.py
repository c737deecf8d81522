"""Rewards for code: the model's function is called in a sandbox, and its results are compared outside of it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ..data.answers import after_thought, final_answer
from ..sandbox import Outcome, Returned, call, require
from .columns import from_json, same_value
from .fences import last_fence

AT_ONCE = 8
"""Sandboxes at the same time; never more than there are cores."""


@dataclass(frozen=True, slots=True)
class Tests:
    """The tests in a row's `answer`: a function's name, arguments, and expected results."""

    function: str
    arguments: tuple[str, ...]
    results: tuple[Any, ...]


def code_tests(completions: Sequence[str], answer: Sequence[Any], **_: object) -> list[float]:
    """1.0 where the function in a completion passes every test, in a sandbox; else 0.0.

    The code is that of the last code fence, else of `<answer>`. A row's `answer` is JSON:

        {"function": "add", "tests": [{"args": [1, 2], "result": 3}]}

    The sandbox gets the arguments and returns results as JSON; the expected ones never enter it. Printed text and exit
    codes are ignored. Partial success earns nothing, or guessing the easy tests would pay off.

    Raises:
        ConfigError: this machine has no sandbox.
    """
    return _code_tests(completions, answer, unsafe=False)


def code_tests_unsafe(completions: Sequence[str], answer: Sequence[Any], **_: object) -> list[float]:
    """`code-tests`, also on a machine without a sandbox: there the model's code has all rights of this account."""
    return _code_tests(completions, answer, unsafe=True)


def read_code(text: str) -> str | None:
    """Return the code after a completion's thoughts: its last fence, else an `<answer>` that defines something."""
    fenced = last_fence(after_thought(text), "python[0-9.]*|py")
    if fenced is not None:
        return fenced
    final = final_answer(text)
    return final if final is not None and "def " in final else None


def _code_tests(completions: Sequence[str], answer: Sequence[Any], *, unsafe: bool) -> list[float]:
    require(unsafe=unsafe)
    tests = [read_tests(each) for each in answer]
    codes = [read_code(text) for text in completions]
    pairs = list(zip(codes, tests, strict=True))
    once = list(dict.fromkeys((code, each.function, each.arguments) for code, each in pairs if code is not None))
    with ThreadPoolExecutor(min(AT_ONCE, os.cpu_count() or 1)) as pool:
        outcomes = dict(zip(once, pool.map(lambda job: call(*job, unsafe=unsafe), once), strict=True))
    return [
        0.0 if code is None else _passed(outcomes[code, each.function, each.arguments], each) for code, each in pairs
    ]


def _passed(outcomes: list[Outcome], tests: Tests) -> float:
    pairs = zip(outcomes, tests.results, strict=True)
    return 1.0 if all(isinstance(o, Returned) and same_value(o.value, right) for o, right in pairs) else 0.0


def read_tests(value: Any) -> Tests:
    """Return the tests in a row's answer."""
    raw = from_json("code-tests", "answer", value)
    try:
        cases = [(list(each["args"]), each["result"]) for each in raw["tests"]]
        function = raw["function"]
    except (TypeError, KeyError) as error:
        raise ValueError(
            'code-tests needs {"function": "add", "tests": [{"args": [1, 2], "result": 3}]} as the answer'
        ) from error
    if not cases or not isinstance(function, str):
        raise ValueError("code-tests needs the name of a function and at least one test as the answer")
    return Tests(function, tuple(json.dumps(args) for args, _ in cases), tuple(result for _, result in cases))
