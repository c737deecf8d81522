"""Figures from answers: accuracy, length, rewards, pass@k and maj@k, paired if there are two models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ...client.learner.data.problems import Problem
from ...client.learner.training.completion_stats import meaning
from ...common.analysis.pass_at_k import (
    NO_ANSWER,
    Floats,
    difference_interval,
    majority_at_k,
    mean_interval,
    pass_at_k,
    proportion_interval,
)
from ...common.analysis.scores import paired_interval
from .answer import ADAPTER, BASE, Answer
from .questions import Questions

SHARES = ("strict", "lenient", "truncated")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measure. With an adapter, the interval is that of the gain; otherwise that of the base model's value."""

    name: str
    base: float
    adapter: float | None
    low: float
    high: float
    problems: int

    @property
    def gain(self) -> float | None:
        """Difference of adapter and base model."""
        return None if self.adapter is None else self.adapter - self.base

    def as_json(self) -> dict[str, Any]:
        """Return the figure for JSON; without values if no problem has any."""
        if not self.problems:
            return {"base": None, "interval": None, "problems": 0}
        pair = {} if self.adapter is None else {"adapter": self.adapter, "gain": self.gain}
        return {"base": self.base, **pair, "interval": [self.low, self.high], "problems": self.problems}


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers of one model under one decoding: problems by samples."""

    rows: list[list[Answer]]

    @property
    def samples(self) -> int:
        """Completions per problem."""
        return len(self.rows[0])

    def column(self, name: str) -> Floats:
        """Return the mean of a field over the samples, by problem."""
        return np.array([[float(getattr(one, name)) for one in row] for row in self.rows]).mean(axis=1)

    def paid(self, weights: Mapping[str, float]) -> Floats:
        """Return the mean over the samples of the weighted sum of some rewards, by problem; NaN if a problem has none.

        As in training: a reward that is None adds nothing.
        """
        paid = [[_sum(one.rewards, weights) for one in row] for row in self.rows]
        kept = [[value for value in values if value is not None] for values in paid]
        return np.array([np.mean(values) if values else np.nan for values in kept])

    def votes(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Return (number of each completion's answer, whether it is right), as `majority_at_k` needs them."""
        numbers: dict[str, int] = {}
        votes = [
            [
                NO_ANSWER if a.strict_answer is None else numbers.setdefault(meaning(a.strict_answer), len(numbers))
                for a in row
            ]
            for row in self.rows
        ]
        return np.array(votes), np.array([[a.strict for a in row] for row in self.rows])


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Result of an evaluation, by decoding."""

    figures: dict[str, list[Figure]]
    classes: dict[str, dict[str, Figure]] = field(default_factory=dict[str, dict[str, Figure]])
    """Strict accuracy of each class of problems: `steps=3`."""
    styles: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict[str, dict[str, dict[str, float]]])
    """Share of the completions of each style, by model."""

    def as_json(self) -> dict[str, Any]:
        """Return the result by decoding, then by measure."""
        return {
            decoding: {
                **{figure.name: figure.as_json() for figure in figures},
                "by_class": {name: figure.as_json() for name, figure in self.classes[decoding].items()},
                "styles": self.styles[decoding],
            }
            for decoding, figures in self.figures.items()
        }


def measured(answers: Sequence[Answer], questions: Questions, pass_at: Sequence[int]) -> Measured:
    """Compute all figures of an evaluation.

    Args:
        pass_at: the k of pass@k and maj@k, for decodings with at least as many samples.
    """
    result = Measured(figures={})
    for decoding in dict.fromkeys(answer.decoding for answer in answers):
        sides = _sides([answer for answer in answers if answer.decoding == decoding], len(questions.problems))
        result.figures[decoding] = list(_figures(sides, questions, pass_at))
        result.classes[decoding] = dict(_classes(sides, questions.problems, questions.classes))
        result.styles[decoding] = {model: _styles(one) for model, one in sides.items()}
    return result


def _sides(answers: list[Answer], problems: int) -> dict[str, Answers]:
    sides: dict[str, Answers] = {}
    for model in (BASE, ADAPTER):
        rows: list[list[Answer]] = [[] for _ in range(problems)]
        for answer in sorted((a for a in answers if a.model == model), key=lambda a: a.sample):
            rows[answer.problem].append(answer)
        if any(rows):
            sides[model] = Answers(rows)
    return sides


def _figures(sides: dict[str, Answers], questions: Questions, pass_at: Sequence[int]) -> Iterator[Figure]:
    samples = sides[BASE].samples
    for name in (*SHARES, "tokens"):
        yield _both(name, sides, lambda side, name=name: side.column(name), share=name in SHARES)
    for reward in questions.rewards:
        yield _both(f"reward/{reward.name}", sides, lambda side, reward=reward: side.paid({reward.name: 1.0}))
    if questions.one_set:
        weights = {reward.name: reward.weight for reward in questions.rewards}
        yield _both("reward/total", sides, lambda side: side.paid(weights))
    for k in (k for k in pass_at if samples > 1 and k <= samples):
        yield _both(f"pass@{k}", sides, lambda side, k=k: _pass(side, k), share=True)
        if k > 1:  # maj@1 is the answer itself
            yield _both(f"maj@{k}", sides, lambda side, k=k: majority_at_k(*side.votes(), k), share=True)


def _both(name: str, sides: dict[str, Answers], measure: Callable[[Answers], Floats], *, share: bool = False) -> Figure:
    adapter = sides.get(ADAPTER)
    return figure(name, measure(sides[BASE]), None if adapter is None else measure(adapter), share=share)


def figure(name: str, base: Floats, adapter: Floats | None, *, share: bool = False) -> Figure:
    """Return a measure with its interval, over the problems that both sides have.

    Args:
        base, adapter: a value for each problem; NaN leaves the problem out.
        share: whether values are shares of completions. If each is 0 or 1, the interval is one for proportions, which
            never has width 0.
    """
    kept = ~np.isnan(base) if adapter is None else ~(np.isnan(base) | np.isnan(adapter))
    base, n = base[kept], int(kept.sum())
    if n == 0:
        nothing = float("nan")
        return Figure(name=name, base=nothing, adapter=None, low=nothing, high=nothing, problems=0)
    bits = share and set(base.tolist()) | (set() if adapter is None else set(adapter[kept].tolist())) <= {0.0, 1.0}
    if adapter is None:
        low, high = proportion_interval(int(base.sum()), n) if bits else mean_interval(base)
        return Figure(name=name, base=float(base.mean()), adapter=None, low=low, high=high, problems=n)
    after = adapter[kept]
    low, high = (
        paired_interval(n, int((after > base).sum()), int((after < base).sum()))
        if bits
        else difference_interval(after, base)
    )
    return Figure(name=name, base=float(base.mean()), adapter=float(after.mean()), low=low, high=high, problems=n)


def _pass(side: Answers, k: int) -> Floats:
    right = np.array([sum(one.strict for one in row) for row in side.rows])
    return pass_at_k(side.samples, right, k)


def _classes(
    sides: dict[str, Answers], problems: list[Problem], columns: Sequence[str]
) -> Iterator[tuple[str, Figure]]:
    values = {model: side.column("strict") for model, side in sides.items()}
    for column in columns:
        labels = np.array([problem.labels.get(column, "") for problem in problems])
        for label in sorted(set(labels.tolist()) - {""}):
            selected = labels == label
            after = values[ADAPTER][selected] if ADAPTER in values else None
            yield f"{column}={label}", figure("strict", values[BASE][selected], after, share=True)


def _sum(rewards: Mapping[str, float | None], weights: Mapping[str, float]) -> float | None:
    parts = [weight * value for name, weight in weights.items() if (value := rewards[name]) is not None]
    return sum(parts) if parts else None


def _styles(side: Answers) -> dict[str, float]:
    styles = [one.style for row in side.rows for one in row]
    return {style: styles.count(style) / len(styles) for style in sorted(set(styles))}
