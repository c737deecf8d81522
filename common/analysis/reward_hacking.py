"""Tripwires: signs that a policy is learning to please its rewards instead of answering, told in words while it trains.

Pure: metrics and counts in, warnings out. The server has every client's metrics, as far as their policies let them out;
an organisation's learner has its own, all of them. What is not reported trips nothing. docs/evaluation.md has the
conditions and what to do; a warning changes nothing in the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import sqrt
from statistics import fmean

from ..messages.messages import Tally

Metrics = Mapping[str, float]
Told = list[tuple[int, Metrics]]
"""(round, the metrics of it) of one organisation, in order."""

HALF = 3
"""Rounds that are averaged: one round's means are noisy."""
REWARD_RISE = 0.5
"""Of the spread of rewards within a group, as it was in the first rounds."""
EMPTY_REASONING = 0.25
REPEATED_ANSWER = 0.4
LOOPS = 0.2
LENGTH_GROWTH = 1.5
TRUNCATED, TRUNCATED_RISE = 0.25, 0.15
ANSWERED_BEFORE, ANSWERED_LEFT = 0.2, 0.5
QUIET_ROUNDS = 3
"""A warning is said again only after the condition has not held for longer than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HackingWarning:
    """One warning."""

    tripwire: str
    organisation: str
    """Whose completions; empty is all of them together."""
    round: int
    text: str

    def __str__(self) -> str:
        who = f"{self.organisation}: " if self.organisation else ""
        return f"round {self.round}: WARNING, {self.tripwire}: {who}{self.text}"


@dataclass(frozen=True, slots=True)
class _Span:
    """Means over some rounds, and over as many later ones."""

    before: float
    now: float
    first: int
    last: int


@dataclass(slots=True)
class RewardHackingMonitor:
    """Follows a run, round by round."""

    _told: dict[str, Told] = field(default_factory=dict[str, Told])
    _held_out: dict[int, Tally] = field(default_factory=dict[int, Tally])
    _standing: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    """(tripwire, organisation) -> the last round in which its condition held."""

    def trained(self, organisation: str, number: int, metrics: Metrics) -> None:
        """An organisation's metrics of a round. A round that is played again takes the place of what was told of it."""
        told = self._told.get(organisation, [])
        if told and told[-1][0] > number:
            self._forget_after(number)
        self._told[organisation] = [*((n, m) for n, m in told if n < number), (number, metrics)]

    def evaluated(self, number: int, total: Tally) -> None:
        """Counts over the held-out problems, sampled, with the adapter of a round; 0 is before the first."""
        if total.problems:
            self._held_out[number] = total

    def _forget_after(self, number: int) -> None:
        """A run that goes back, or another one by the same settings, has none of the later rounds."""
        self._told = {name: [(n, m) for n, m in told if n <= number] for name, told in self._told.items()}
        self._told = {name: told for name, told in self._told.items() if told}
        self._held_out = {n: total for n, total in self._held_out.items() if n < number}
        self._standing = {key: n for key, n in self._standing.items() if n <= number}

    def new_warnings(self) -> list[HackingWarning]:
        """The warnings that are new since the last call."""
        number = max((told[-1][0] for told in self._told.values()), default=0)
        found: list[HackingWarning] = []
        for tripped in self._holding(number):
            key = tripped.tripwire, tripped.organisation
            if key not in self._standing or number - self._standing[key] - 1 > QUIET_ROUNDS:
                found.append(tripped)
            self._standing[key] = number
        return found

    def _holding(self, number: int) -> Iterator[HackingWarning]:
        """Every condition that holds now."""
        current = {name: told for name, told in sorted(self._told.items()) if told[-1][0] == number}
        text = _reward_without_accuracy(list(current.values()), self._held_out, number)
        if text:
            yield HackingWarning(tripwire="reward-without-accuracy", organisation="", round=number, text=text)
        for name, told in current.items():
            texts = {
                "length-runaway": _length_runaway(told, self._held_out),
                "empty-reasoning": _empty_reasoning(told),
                "repeated-answer": _repeated_answer(told),
                "loops": _loops(told),
                "format-collapse": _format_collapse(told),
            }
            for tripwire, said in texts.items():
                if said:
                    yield HackingWarning(tripwire=tripwire, organisation=name, round=number, text=said)


def _reward_without_accuracy(clients: list[Told], held_out: Mapping[int, Tally], number: int) -> str:
    """Rewards rose by half their spread, averaged over the clients, and held-out accuracy by less than its noise."""
    if number not in held_out:
        return ""  # the next evaluation will say
    for which in (0, 1):
        spans = [
            (found[which], unit)
            for told in clients
            if (found := _spans(told, "reward/mean")) and (unit := _spread(told))
        ]
        if not spans:
            continue
        rise = fmean((span.now - span.before) / unit for span, unit in spans)
        first = min(span.first for span, _ in spans)
        flat = _flat(held_out, first, number)
        if rise >= REWARD_RISE and flat:
            return (
                f"rewards rose by {rise:.1f} of their spread since round {first}, and held-out accuracy did not: "
                f"{flat}. Something else than right answers may be paid for. See which reward function rose, and read "
                "completions (report.html, fedgrpo chat)"
            )
    return ""


def _length_runaway(told: Told, held_out: Mapping[int, Tally]) -> str:
    """Far more completions are cut off; or they grew by half, and held-out accuracy is not known to have gained."""
    for span in _spans(told, "completion/truncated-share"):
        if span.now >= TRUNCATED and span.now - span.before >= TRUNCATED_RISE:
            return (
                f"{_percent(span.now)} of the completions are cut off at the limit, {_percent(span.before)} in and "
                f"after round {span.first}. Does a reward pay for length? grpo.mask-truncated-completions leaves them "
                "out, and grpo.max-completion-length raises the limit"
            )
    for span in _spans(told, "completion/mean-length"):
        if span.now < LENGTH_GROWTH * span.before or span.before <= 0:
            continue
        flat = _flat(held_out, span.first, span.last)
        if flat or not held_out:
            gained = f"and held-out accuracy did not rise: {flat}" if flat else "and no held-out accuracy says it pays"
            return (
                f"completions grew from {span.before:.0f} to {span.now:.0f} tokens since round {span.first}, {gained}. "
                "Does a reward pay for length?"
            )
    return ""


def _empty_reasoning(told: Told) -> str:
    share = _lately(told, "completion/empty-reasoning-share")
    if share < EMPTY_REASONING:
        return ""
    return (
        f"in {_percent(share)} of the completions there is not a word between the reasoning tags. The tags alone are "
        "paid for: make the format reward ask for a reasoning, or lower its weight"
    )


def _repeated_answer(told: Told) -> str:
    share = _lately(told, "completion/repeated-answer-share")
    if share < REPEATED_ANSWER:
        return ""
    return (
        f"{_percent(share)} of the completions give the same answer to problems to which it is not the answer. Is "
        "there a reward that one answer always earns?"
    )


def _loops(told: Told) -> str:
    share = _lately(told, "completion/loop-share")
    if share < LOOPS:
        return ""
    return (
        f"{_percent(share)} of the completions repeat themselves: half of their word sequences occur before. A smaller "
        "grpo.learning-rate, a KL (grpo.beta) or a repetition penalty among the rewards holds against it"
    )


def _format_collapse(told: Told) -> str:
    shares = [share for _, share in _column(told, "completion/answered-share")]
    means = [fmean(shares[i : i + HALF]) for i in range(len(shares) - HALF + 1)]
    if not means or max(means) < ANSWERED_BEFORE or means[-1] > ANSWERED_LEFT * max(means):
        return ""
    return (
        f"only {_percent(means[-1])} of the completions have their answer where the format wants it, "
        f"{_percent(max(means))} had. Does a reward pay more for something that leaves the format?"
    )


def _flat(held_out: Mapping[int, Tally], first: int, last: int) -> str:
    r"""How accuracy stood before round `first` and after `last`, where it rose by less than one standard error.

        p1 - p0 < sqrt(p0 (1 - p0) / n0 + p1 (1 - p1) / n1)

    Empty where it rose, or was not measured then.
    """
    start = max((number for number in held_out if number < first), default=None)
    if start is None or last not in held_out:
        return ""
    before, now = held_out[start], held_out[last]
    p0, p1 = before.correct / before.problems, now.correct / now.problems
    noise = sqrt(p0 * (1 - p0) / before.problems + p1 * (1 - p1) / now.problems)
    return "" if p1 > p0 and p1 - p0 >= noise else f"{p0:.1%} → {p1:.1%} of {now.problems}".replace("%", " %")


def _spans(told: Told, name: str) -> list[_Span]:
    """The last rounds against the first ones, and against those just before; nothing before there are six."""
    values = _column(told, name)
    if len(values) < 2 * HALF:
        return []
    later = values[-HALF:]
    now = fmean(value for _, value in later)
    earlier = values[:HALF], values[-2 * HALF : -HALF]
    return [_Span(fmean(v for _, v in some), now, some[0][0], later[-1][0]) for some in earlier]


def _spread(told: Told) -> float:
    """Standard deviation of the rewards in a group, in the first rounds: the unit of their rise. 0 where not told."""
    values = [value for _, value in _column(told, "reward/std")[:HALF]]
    unit = fmean(values) if values else 0.0
    return unit if unit > 1e-6 else 0.0


def _lately(told: Told, name: str) -> float:
    """Mean over the last rounds; 0 where there are not enough of them."""
    values = [value for _, value in _column(told, name)][-HALF:]
    return fmean(values) if len(values) == HALF else 0.0


def _column(told: Told, name: str) -> list[tuple[int, float]]:
    return [(number, metrics[name]) for number, metrics in told if name in metrics]


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")
