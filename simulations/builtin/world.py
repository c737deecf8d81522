"""Generated grade-school problems with known answers and solutions.

Splits are disjoint by the numbers of a problem: no combination of numbers in `test` occurs in `train` or in the cold
start, in any template. Shares of operators and steps are designed: numbers are redrawn within a template until every
result is a positive number below 50.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass

from ...client.learner.data.problems import Problem
from .templates import DISTRACTORS, NAMES, TEMPLATES, THINGS

TOPICS = tuple(TEMPLATES)
SPLITS = {"test": (0,), "validation": (1,), "cold": (2, 3, 4), "train": (5, 6, 7, 8, 9)}
"""Each split has some of ten buckets of number combinations."""
STEP_SHARES = {1: 0.25, 2: 0.45, 3: 0.30}
DISTRACTOR_SHARE = 0.2
RESULT_BELOW = 50
REDRAW_TEMPLATE_AFTER = 500
OPERATORS = {"+": "plus", "-": "minus", "*": "times"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Solved:
    """A problem with its solution: `(left, operator, right, result)` per step."""

    question: str
    steps: tuple[tuple[int, str, int, int], ...]

    @property
    def answer(self) -> str:
        """Return the result of the last step."""
        return str(self.steps[-1][3])

    @property
    def working(self) -> str:
        """Return the solution, a step per line."""
        return "\n".join(f"{left} {operator} {right} = {result}" for left, operator, right, result in self.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Worked(Solved):
    """A problem of the built-in world."""

    topic: str
    template: str

    def problem(self) -> Problem:
        """Return the problem as a client trains on it. `operator` is that of the last step."""
        labels = {"topic": self.topic, "operator": OPERATORS[self.steps[-1][1]], "steps": str(len(self.steps))}
        return Problem(self.question, self.answer, labels)


def problems(split: str, count: int, seed: int, most_steps: int = 0) -> list[Worked]:
    """Return `count` problems of a split; the same ones for the same seed.

    Args:
        most_steps: of a solution; 0 sets no limit.
    """
    rng, found = random.Random(f"{split}/{seed}"), list[Worked]()
    while len(found) < count:
        drawn = _draw(rng, split)
        if not most_steps or len(drawn.steps) <= most_steps:
            found.append(drawn)
    return found


def calculate(left: int, operator: str, right: int) -> int:
    """Return the result of one step."""
    return left + right if operator == "+" else left - right if operator == "-" else left * right


def _draw(rng: random.Random, split: str) -> Worked:
    while True:
        topic = rng.choice(TOPICS)
        step_count = rng.choices(list(STEP_SHARES), list(STEP_SHARES.values()))[0]
        number = rng.choice([i for i, (_, plan) in enumerate(TEMPLATES[topic]) if len(plan.split()) == step_count])
        text, plan = TEMPLATES[topic][number]
        for _ in range(REDRAW_TEMPLATE_AFTER):  # some templates have few or no combinations in a split
            numbers = {k: rng.randint(2, 9) for k in "xyzw"} | {k: rng.randint(5, 15) for k in "abc"}
            used = {k: v for k, v in numbers.items() if f"{{{k}}}" in text}
            steps = _work(plan, numbers)
            if _bucket(list(used.values())) in SPLITS[split] and all(0 < s[3] < RESULT_BELOW for s in steps):
                question, template = _fill(rng, text, topic, numbers), f"{topic}-{number}"
                return Worked(question=question, topic=topic, template=template, steps=steps)


def _fill(rng: random.Random, text: str, topic: str, numbers: dict[str, int]) -> str:
    name, other = rng.sample(NAMES, 2)
    opening = rng.choice(DISTRACTORS) if rng.random() < DISTRACTOR_SHARE else ""
    thing = rng.choice(THINGS[topic])
    return (opening + text).format(n=name, m=other, o=thing, d=rng.randint(5, 15), **numbers)


def _bucket(numbers: list[int]) -> int:
    return zlib.crc32(repr(sorted(numbers)).encode()) % 10


def _work(plan: str, numbers: dict[str, int]) -> tuple[tuple[int, str, int, int], ...]:
    steps: list[tuple[int, str, int, int]] = []

    def value(symbol: str) -> int:
        if symbol == "_":
            return steps[-1][3]
        return steps[int(symbol) - 1][3] if symbol.isdigit() else numbers[symbol]

    for left, operator, right in plan.split():
        x, y = value(left), value(right)
        steps.append((x, operator, y, calculate(x, operator, y)))
    return tuple(steps)
