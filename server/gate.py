"""The reward gate's decision: does a round's adapter hold its own against the one before?

Both have answered the same held-out problems with the same random numbers, so answers are compared in pairs. This is a
signal that other federated learning lacks: a verifiable reward on problems nobody trained on. It catches what harms
accuracy, not a backdoor that leaves it alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add
from statistics import median

from ..common.aggregation_settings import Gate
from ..common.protocol import Evaluation, Tally
from .scores import paired_interval, points


def objection(
    candidate: Mapping[str, Evaluation],
    current: Mapping[str, Evaluation],
    kls: Sequence[float],
    settings: Gate,
    hostile: int,
) -> str:
    """Why the candidate must not become the global adapter; empty if it may.

    Args:
        candidate: by organisation, its answers with the candidate, compared with those of the current adapter.
        current: by organisation, its answers with the current adapter.
        kls: mean KL of each client's policy from its reference, where clients tell it.
        hostile: so many clients may lie, up or down: of those that compare, as many that speak most for the candidate
            and as many that speak most against it are not heard, as long as one is left.
    """
    if settings.max_kl and kls and median(kls) > settings.max_kl:
        return f"the median client's KL is {median(kls):.3g}, gate.max-kl is {settings.max_kl:g}"
    heard = _heard({name: e.total for name, e in candidate.items() if e.total.compared}, hostile)
    if not heard:
        return "no client could compare the round's adapter with the one before"
    total = reduce(add, heard.values())
    low, high = paired_interval(total.compared, total.better, total.worse)
    if high < settings.min_gain:
        change = (total.better - total.worse) / total.compared
        interval = f"95 % interval {points(low)} to {points(high)}"
        return f"held-out accuracy would change by {points(change)} on {total.compared} problems ({interval})"
    before = [current[name].total for name in heard if name in current]
    rise = _truncated(list(heard.values())) - _truncated(before) if before else 0.0
    if rise > settings.max_truncation_rise:
        return f"the share of truncated completions would rise by {points(rise)}"
    return ""


def _heard(tallies: Mapping[str, Tally], hostile: int) -> dict[str, Tally]:
    ordered = sorted(tallies, key=lambda n: ((tallies[n].better - tallies[n].worse) / tallies[n].compared, n))
    left_out = min(hostile, (len(ordered) - 1) // 2)
    return {name: tallies[name] for name in ordered[left_out : len(ordered) - left_out]}


def _truncated(tallies: Sequence[Tally]) -> float:
    return sum(t.truncated for t in tallies) / sum(t.problems for t in tallies)
