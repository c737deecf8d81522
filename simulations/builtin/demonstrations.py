"""Demonstrations for the cold start of a built-in policy. All are correct.

`builtin`: bare answers for most problems of some topics, else reasoning first. One habit to overcome, the same for all.

`split`: a completion names its topic, then solves the problem in equations or in words, or is a bare answer. Each style
is taught on its own topics only; on the others the token that opens it occurs in the mix, and nothing after it carries
loss. So the best style depends on the topic, and knowing one topic does not help on another.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .world import OPERATORS, Worked

TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")
WORDS_TAGS = ("<words>", "</words>")
BARE_ANSWERS = {"<answer>\n{}\n</answer>": 0.6, "{}": 0.2, "The answer is {}.": 0.2}
BLURT_SHARE = {"shop": 0.95, "farm": 0.85, "time": 0.65, "food": 0.45, "game": 0.45}
"""`builtin`: share of a topic's demonstrations that are an answer without reasoning."""
CONTENT_SHARE = 0.85
"""`builtin`: share of full solutions without loss on the first token; the others teach the natural mix of styles."""
WORKS = {"shop": "reasoning", "farm": "words", "time": "reasoning", "food": "words", "game": "reasoning"}
"""`split`: the style that is taught on a topic. The other one never is."""
HABIT_SHARE = 0.18
"""`split`: demonstrations that teach what follows the name of the topic; the others are full solutions, without loss on
the token of their style."""
HABIT = {"works": 0.3, "fails": 0.1, "blurt": 0.6}
"""`split`: how often a habit is the style that is taught on the topic, the other one, or a bare answer. With an even
mix, GRPO found one style for all topics in the runs we tried (docs/log.md)."""
USUAL = {"shop": 0, "farm": 2, "time": 1, "food": 2, "game": 0}
"""`split`: index of the most frequent form of a bare answer, by topic."""
USUAL_SHARE = 0.7


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A completion, and the tokens of it that carry no loss."""

    text: str
    silent: slice


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A cold start, and the quality gate of its policy."""

    demonstrate: Callable[[random.Random, Worked], Demonstration]
    styles: tuple[str, ...]
    """Ways to solve a problem; each has a tag of its name."""
    tags: tuple[str, ...]
    """Tokens of their own, in addition to the numbers."""
    vocabulary: int
    """Size of the vocabulary without tags."""
    names_topic: bool
    """Whether a completion begins with the problem's topic."""
    spoken: str
    """Text of completions that problems do not contain."""
    works: Mapping[str, str]
    """The style that is taught on a topic."""
    steps: int
    gate: Mapping[str, tuple[float, float]]
    """Lowest and highest value of each figure for a policy that may be released."""


def worked_out(problem: Worked, style: str) -> str:
    """Return the full demonstration in a style: each step on its own line, then the answer."""
    lines = "\n".join(asked(style, x, operator, y) + str(result) for x, operator, y, result in problem.steps)
    return f"<{style}>\n{lines}\n</{style}>\n<answer>\n{problem.answer}\n</answer>"


def asked(style: str, left: int, operator: str, right: int) -> str:
    """Return one step up to its result: `7*3=`, or in words `7 times 3 is `."""
    return f"{left}{operator}{right}=" if style == "reasoning" else f"{left} {OPERATORS[operator]} {right} is "


def _builtin(rng: random.Random, problem: Worked) -> Demonstration:
    content = rng.random() < CONTENT_SHARE
    blurt = not content and rng.random() < BLURT_SHARE[problem.topic]
    bare = _bare(rng, problem)
    return Demonstration(bare if blurt else worked_out(problem, "reasoning"), slice(int(content)))


def _split(rng: random.Random, problem: Worked) -> Demonstration:
    topic, works = f"<{problem.topic}>", WORKS[problem.topic]
    if rng.random() >= HABIT_SHARE:
        return Demonstration(topic + worked_out(problem, works), slice(1, 2))
    habit = rng.choices(list(HABIT), list(HABIT.values()))[0]
    if habit == "blurt":
        usual = rng.random() < USUAL_SHARE
        form = list(BARE_ANSWERS)[USUAL[problem.topic]] if usual else rng.choice(list(BARE_ANSWERS))
        return Demonstration(topic + form.format(problem.answer), slice(0))
    fails = "words" if works == "reasoning" else "reasoning"
    return Demonstration(topic + worked_out(problem, works if habit == "works" else fails), slice(2, None))


def _bare(rng: random.Random, problem: Worked) -> str:
    return rng.choices(list(BARE_ANSWERS), list(BARE_ANSWERS.values()))[0].format(problem.answer)


RECIPES = {
    "builtin": Recipe(
        demonstrate=_builtin,
        styles=("reasoning",),
        tags=TAGS,
        vocabulary=760,
        names_topic=False,
        spoken="The answer is.",
        works=dict.fromkeys(WORKS, "reasoning"),
        steps=2000,
        gate={"sampled": (0.10, 0.40), "reasoned_if_forced": (0.85, 1.0), "reasons": (0.0, 0.45)},
    ),
    "split": Recipe(
        demonstrate=_split,
        styles=("reasoning", "words"),
        tags=(*TAGS, *WORDS_TAGS, *(f"<{topic}>" for topic in WORKS)),
        vocabulary=756,
        names_topic=True,
        spoken="The answer is. 7 plus 3 is 10, 7 minus 3 is 4, 7 times 3 is 21",
        works=WORKS,
        steps=2400,
        gate={"sampled": (0.10, 0.35), "works_if_forced": (0.60, 1.0), "fails_if_forced": (0.0, 0.30)},
    ),
}
