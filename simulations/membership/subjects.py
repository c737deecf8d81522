"""The prompts of an audit: those that were trained on, others of the same kind, and those that a coin decided about."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...client.learner.data.problems import Problem
from ...client.learner.privacy.spent import Spent
from ...client.learner.rewards import Reward
from ...common.errors import ConfigError

LEAST = 20
"""Prompts of each kind, at least: with fewer, every interval is too wide to say anything."""


@dataclass(frozen=True, slots=True)
class Coin:
    """A prompt that an independent coin put into the training data, or kept out of it."""

    problem: Problem
    included: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Subjects:
    """Whose membership is audited, and how prompts are put and paid."""

    members: list[Problem]
    """Trained on."""
    others: list[Problem]
    """Never trained on by anyone in the federation, as far as is known here; otherwise of the same kind."""
    others_are: str
    coins: list[Coin] = field(default_factory=list[Coin])
    """Each included with probability 1/2."""
    coins_are: str = "canaries"
    reads: float = 0.0
    """How often each member was trained on, on average; 0 if that is not known here."""
    system_prompt: str
    rewards: tuple[Reward, ...]
    budgets: tuple[Path, ...] = ()
    """Records of what was charged to the members' privacy, one per organisation."""
    notes: list[str] = field(default_factory=list[str])
    """What a reader of the result has to know."""

    def charged(self, delta: float) -> float | None:
        """Return the largest epsilon that an organisation was charged; None where one trained without noise."""
        budgets = [Spent(path) for path in self.budgets]
        if not budgets or not all(budget.charges for budget in budgets):
            return None
        return max(budget.epsilon(delta) for budget in budgets)

    @property
    def problems(self) -> list[Problem]:
        """Return all prompts of the audit, each once."""
        every = [*self.members, *self.others, *(coin.problem for coin in self.coins)]
        return list({problem.question: problem for problem in every}.values())

    def places(self, problems: Iterable[Problem]) -> npt.NDArray[np.intp]:
        """Return the indices of some prompts among all of the audit."""
        index = {problem.question: i for i, problem in enumerate(self.problems)}
        return np.array([index[problem.question] for problem in problems], dtype=np.intp)

    @property
    def included(self) -> npt.NDArray[np.bool_]:
        """Return the coins as booleans."""
        return np.array([coin.included for coin in self.coins], dtype=np.bool_)


def chosen(
    members: Sequence[Problem], others: Sequence[Problem], *, limit: int, seed: int
) -> tuple[list[Problem], list[Problem]]:
    """Return at most `limit` different prompts of each kind; one that is in both kinds is in neither.

    Taking such a prompt from one side only would leave the rarer prompts on that side.

    Raises:
        ConfigError: fewer than LEAST remain of a kind.
    """
    kinds = [{problem.question: problem for problem in kind} for kind in (members, others)]
    both = kinds[0].keys() & kinds[1].keys()
    first, second = ([p for question, p in kind.items() if question not in both] for kind in kinds)
    for what, kind in (("trained on", first), ("held out", second)):
        if len(kind) < LEAST:
            raise ConfigError(
                f"{len(kind)} prompts are known to be {what}, but an audit of membership needs at least {LEAST} of "
                "each kind, and says little with fewer than some hundred. Hold out more prompts (data.held-out-share, "
                "evaluation.problems), or plant canaries in a simulation: --set simulation.canaries=200."
            )
    return _sample(first, limit, seed), _sample(second, limit, seed + 1)


def fair_coins(
    included: Sequence[Problem], left_out: Sequence[Problem], *, share_out: float, limit: int, seed: int
) -> list[Coin]:
    """Return prompts whose chance of having been included is 1/2 each, from a split with another chance.

    A hash has held out each prompt with chance h = `share_out`. One that was held out is kept with chance
    min(1, (1 - h) / h), one that was included with min(1, h / (1 - h)), by coins of their own. Of those kept, each was
    included with chance 1/2, independently of the others.

    Args:
        limit: prompts to return, about.
    """
    rng, odds = random.Random(seed), share_out / (1 - share_out)
    expected = 2 * min(len(left_out) * min(1.0, 1 / odds), len(included) * min(1.0, odds))
    thinning = min(1.0, limit / expected) if expected else 1.0
    kinds = ((included, True, min(1.0, odds)), (left_out, False, min(1.0, 1 / odds)))
    return [
        Coin(problem, inside)
        for problems, inside, chance in kinds
        for problem in {p.question: p for p in problems}.values()
        if rng.random() < thinning * chance
    ]


def quotas(members: Sequence[Problem], count: int) -> Counter[tuple[tuple[str, str], ...]]:
    """Return how many of `count` prompts each combination of labels should have, in the proportions of the members."""
    labels = Counter(label_key(problem) for problem in members)
    return Counter({key: round(count * number / len(members)) for key, number in labels.items()})


def label_key(problem: Problem) -> tuple[tuple[str, str], ...]:
    """Return a problem's labels as a key."""
    return tuple(sorted(problem.labels.items()))


def _sample(problems: list[Problem], limit: int, seed: int) -> list[Problem]:
    return random.Random(seed).sample(problems, limit) if len(problems) > limit else problems
