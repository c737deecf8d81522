"""Warnings of reward hacking: signs that a policy is learning to please its rewards instead of answering.

Pure: metrics and counts in, warnings out. The server has every client's metrics, as far as their policies release them;
an organisation's learner has all of its own. A missing metric never causes a warning. docs/evaluation.md describes the
conditions and what to do; a warning changes nothing in the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import sqrt
from statistics import fmean

from ..messages.messages import Tally

Metrics = Mapping[str, float]
History = list[tuple[int, Metrics]]
"""(round, its metrics) of one organisation, in order."""

HALF = 3
"""Rounds that are averaged: the means of a single round are noisy."""
REWARD_RISE = 0.5
"""In units of the standard deviation of rewards within a group in the first rounds."""
EMPTY_REASONING = 0.25
REPEATED_ANSWER = 0.4
LOOPS = 0.2
LENGTH_GROWTH = 1.5
TRUNCATED, TRUNCATED_RISE = 0.25, 0.15
ANSWERED_BEFORE, ANSWERED_LEFT = 0.2, 0.5
QUIET_ROUNDS = 3
"""A warning is repeated only after its condition has not held for more rounds than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HackingWarning:
    """One warning."""

    tripwire: str
    organisation: str
    """Organisation of the completions; empty for all of them together."""
    round: int
    text: str

    def __str__(self) -> str:
        who = f"{self.organisation}: " if self.organisation else ""
        return f"round {self.round}: WARNING, {self.tripwire}: {who}{self.text}"


@dataclass(frozen=True, slots=True)
class _Span:
    """Means over some rounds, and over the same number of later ones."""

    before: float
    after: float
    first: int
    last: int


@dataclass(slots=True)
class RewardHackingMonitor:
    """The state of the conditions over a run, updated round by round."""

    _histories: dict[str, History] = field(default_factory=dict[str, History])
    _held_out: dict[int, Tally] = field(default_factory=dict[int, Tally])
    _last_held: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    """(tripwire, organisation) -> the last round in which its condition held."""

    def trained(self, organisation: str, number: int, metrics: Metrics) -> None:
        """Record an organisation's metrics of a round. A repeated round replaces the earlier record."""
        history = self._histories.get(organisation, [])
        if history and history[-1][0] > number:
            self._forget_after(number)
        self._histories[organisation] = [*((n, m) for n, m in history if n < number), (number, metrics)]

    def evaluated(self, number: int, total: Tally) -> None:
        """Record counts of held-out problems, sampled, with the adapter of a round; 0 is before the first."""
        if total.problems:
            self._held_out[number] = total

    def _forget_after(self, number: int) -> None:
        """Forget the later rounds: the run went back, or another one with the same settings began."""
        kept = {name: [(n, m) for n, m in history if n <= number] for name, history in self._histories.items()}
        self._histories = {name: history for name, history in kept.items() if history}
        self._held_out = {n: total for n, total in self._held_out.items() if n < number}
        self._last_held = {key: n for key, n in self._last_held.items() if n <= number}

    def new_warnings(self) -> list[HackingWarning]:
        """Return the warnings that are new since the last call."""
        number = max((history[-1][0] for history in self._histories.values()), default=0)
        warnings: list[HackingWarning] = []
        for warning in self._holding(number):
            key = warning.tripwire, warning.organisation
            if key not in self._last_held or number - self._last_held[key] - 1 > QUIET_ROUNDS:
                warnings.append(warning)
            self._last_held[key] = number
        return warnings

    def _holding(self, number: int) -> Iterator[HackingWarning]:
        """Yield a warning for every condition that holds in a round."""
        current = {name: history for name, history in sorted(self._histories.items()) if history[-1][0] == number}
        text = _reward_without_accuracy(list(current.values()), self._held_out, number)
        if text:
            yield HackingWarning(tripwire="reward-without-accuracy", organisation="", round=number, text=text)
        for name, history in current.items():
            texts = {
                "length-runaway": _length_runaway(history, self._held_out),
                "empty-reasoning": _empty_reasoning(history),
                "repeated-answer": _repeated_answer(history),
                "loops": _loops(history),
                "format-collapse": _format_collapse(history),
            }
            for tripwire, message in texts.items():
                if message:
                    yield HackingWarning(tripwire=tripwire, organisation=name, round=number, text=message)


def _reward_without_accuracy(clients: list[History], held_out: Mapping[int, Tally], number: int) -> str:
    """Return a message if rewards rose by half their spread over the clients, and accuracy by less than its noise."""
    if number not in held_out:
        return ""  # wait for the next evaluation
    for which in (0, 1):
        spans = [
            (both[which], unit)
            for history in clients
            if (both := _spans(history, "reward/mean")) and (unit := _spread(history))
        ]
        if not spans:
            continue
        rise = fmean((span.after - span.before) / unit for span, unit in spans)
        first = min(span.first for span, _ in spans)
        flat = _flat(held_out, first, number)
        if rise >= REWARD_RISE and flat:
            return (
                f"rewards rose by {rise:.1f} of their spread since round {first}, and held-out accuracy did not: "
                f"{flat}. Something other than correct answers may be rewarded. See which reward function rose, and "
                "read completions (report.html, fedgrpo chat)"
            )
    return ""


def _length_runaway(history: History, held_out: Mapping[int, Tally]) -> str:
    """Return a message if far more completions are cut off, or if they grew by half without a gain in accuracy."""
    for span in _spans(history, "completion/truncated-share"):
        if span.after >= TRUNCATED and span.after - span.before >= TRUNCATED_RISE:
            return (
                f"{_percent(span.after)} of the completions are cut off at the limit, {_percent(span.before)} in and "
                f"after round {span.first}. Does a reward favour length? grpo.mask-truncated-completions leaves them "
                "out, and grpo.max-completion-length raises the limit"
            )
    for span in _spans(history, "completion/mean-length"):
        if span.after < LENGTH_GROWTH * span.before or span.before <= 0:
            continue
        flat = _flat(held_out, span.first, span.last)
        if flat or not held_out:
            accuracy = f"did not rise: {flat}" if flat else "was not measured"
            return (
                f"completions grew from {span.before:.0f} to {span.after:.0f} tokens since round {span.first}, "
                f"and held-out accuracy {accuracy}. Does a reward favour length?"
            )
    return ""


def _empty_reasoning(history: History) -> str:
    share = _lately(history, "completion/empty-reasoning-share")
    if share < EMPTY_REASONING:
        return ""
    return (
        f"in {_percent(share)} of the completions there is not a word between the reasoning tags. The tags alone are "
        "rewarded: make the format reward require reasoning, or lower its weight"
    )


def _repeated_answer(history: History) -> str:
    share = _lately(history, "completion/repeated-answer-share")
    if share < REPEATED_ANSWER:
        return ""
    return (
        f"{_percent(share)} of the completions give the same wrong answer to different problems. Is there a "
        "reward that one answer always earns?"
    )


def _loops(history: History) -> str:
    share = _lately(history, "completion/loop-share")
    if share < LOOPS:
        return ""
    return (
        f"{_percent(share)} of the completions repeat themselves: half of their word sequences occur before. A smaller "
        "grpo.learning-rate, a KL term (grpo.beta) or a repetition penalty among the rewards prevents it"
    )


def _format_collapse(history: History) -> str:
    shares = [share for _, share in _column(history, "completion/answered-share")]
    means = [fmean(shares[i : i + HALF]) for i in range(len(shares) - HALF + 1)]
    if not means or max(means) < ANSWERED_BEFORE or means[-1] > ANSWERED_LEFT * max(means):
        return ""
    return (
        f"only {_percent(means[-1])} of the completions have their answer in the place that the format asks for, "
        f"{_percent(max(means))} had. Does a reward favour something that breaks the format?"
    )


def _flat(held_out: Mapping[int, Tally], first: int, last: int) -> str:
    r"""Describe accuracy before round `first` and after `last`, if it rose by less than one standard error.

        p1 - p0 < sqrt(p0 (1 - p0) / n0 + p1 (1 - p1) / n1)

    Empty if it rose, or was not measured at both times.
    """
    start = max((number for number in held_out if number < first), default=None)
    if start is None or last not in held_out:
        return ""
    before, after = held_out[start], held_out[last]
    p0, p1 = before.correct / before.problems, after.correct / after.problems
    noise = sqrt(p0 * (1 - p0) / before.problems + p1 * (1 - p1) / after.problems)
    return "" if p1 > p0 and p1 - p0 >= noise else f"{p0:.1%} → {p1:.1%} of {after.problems}".replace("%", " %")


def _spans(history: History, name: str) -> list[_Span]:
    """Compare the last rounds with the first ones, and with those just before; empty with fewer than six rounds."""
    values = _column(history, name)
    if len(values) < 2 * HALF:
        return []
    later = values[-HALF:]
    after = fmean(value for _, value in later)
    earlier = values[:HALF], values[-2 * HALF : -HALF]
    return [_Span(fmean(v for _, v in some), after, some[0][0], later[-1][0]) for some in earlier]


def _spread(history: History) -> float:
    """Return the standard deviation of rewards within a group in the first rounds, or 0 if unknown."""
    values = [value for _, value in _column(history, "reward/std")[:HALF]]
    unit = fmean(values) if values else 0.0
    return unit if unit > 1e-6 else 0.0


def _lately(history: History, name: str) -> float:
    """Return the mean over the last rounds; 0 if there are not enough of them."""
    values = [value for _, value in _column(history, name)][-HALF:]
    return fmean(values) if len(values) == HALF else 0.0


def _column(history: History, name: str) -> list[tuple[int, float]]:
    return [(number, metrics[name]) for number, metrics in history if name in metrics]


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")
