"""Word problems in plain English, of one or two steps, for a small pretrained model: four topics, one per organisation.

Held-out problems share no template with training: what rises on them was not learned by heart.
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ...client.learner.data.problems import Problem
from ..builtin import world
from ..builtin.templates import NAMES

FILE = Path(__file__).parent / "templates.toml"
OPERATIONS = {"+": "plus", "-": "minus", "*": "times", "/": "divided by"}
ONE_STEP_SHARE = 0.85
"""Right answers pay early: most problems have one step."""
LARGEST = 60
"""No number of a problem or of its solution is larger."""


@dataclass(frozen=True, slots=True)
class Template:
    """A problem without its numbers."""

    topic: str
    text: str
    plan: tuple[str, ...]
    held_out: bool

    @property
    def operations(self) -> str:
        """Return the operators of its steps."""
        return "".join(step[1] for step in self.plan)


@dataclass(frozen=True, slots=True, kw_only=True)
class Worked(world.Solved):
    """A problem in English."""

    template: Template

    def problem(self) -> Problem:
        """Return the problem as a client trains on it. `operation` is that of the last step."""
        operation, steps = OPERATIONS[self.steps[-1][1]], str(len(self.steps))
        return Problem(
            self.question, self.answer, {"topic": self.template.topic, "operation": operation, "steps": steps}
        )


@cache
def templates() -> tuple[Template, ...]:
    """Return all templates, in the order of their file."""
    topics = tomllib.loads(FILE.read_text(encoding="utf-8"))
    return tuple(
        Template(topic, entry["text"], tuple(entry["plan"].split()), entry.get("held-out", False))
        for topic, entries in topics.items()
        for entry in entries
    )


def problems(split: str, count: int, seed: int, most_steps: int = 0) -> list[Worked]:
    """Return `count` different problems of `train` or `test`, which share no template; the same for the same seed.

    Topics are dealt in turn, and operations drawn evenly.

    Args:
        most_steps: of a solution; 0 sets no limit.
    """
    rng, found = random.Random(f"words/{split}/{seed}"), dict[str, Worked]()
    known = [template for template in templates() if template.held_out == (split == "test")]
    topics = sorted({template.topic for template in known})
    while len(found) < count:
        topic = topics[len(found) % len(topics)]
        steps = 1 if most_steps == 1 or rng.random() < ONE_STEP_SHARE else 2
        drawn = _draw(rng, [each for each in known if each.topic == topic and len(each.plan) == steps])
        found.setdefault(drawn.question, drawn)
    return list(found.values())


def _draw(rng: random.Random, known: Sequence[Template]) -> Worked:
    operations = rng.choice(sorted({template.operations for template in known}))
    template = rng.choice([each for each in known if each.operations == operations])
    while True:
        numbers = {key: rng.randint(3, 20) for key in "abc"} | {key: rng.randint(2, 9) for key in "xyz"}
        numbers["p"] = numbers["x"] * numbers["y"]
        steps = _work(template.plan, numbers)
        if all(0 < number <= LARGEST for left, _, right, result in steps for number in (left, right, result)):
            name, other = rng.sample(NAMES, 2)
            question = template.text.format(n=name, m=other, **numbers)
            return Worked(question=question, template=template, steps=steps)


def _work(plan: Sequence[str], numbers: dict[str, int]) -> tuple[tuple[int, str, int, int], ...]:
    steps: list[tuple[int, str, int, int]] = []
    for left, operator, right in plan:
        x, y = (steps[-1][3] if key == "_" else numbers[key] for key in (left, right))
        steps.append((x, operator, y, _calculated(x, operator, y)))
    return tuple(steps)


def _calculated(left: int, operator: str, right: int) -> int:
    """Return the result of one step; divisions leave no remainder."""
    return left // right if operator == "/" else world.calculate(left, operator, right)
