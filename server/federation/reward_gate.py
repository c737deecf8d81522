"""The reward gate's decision: a round's adapter must not be significantly worse than the previous one.

Both have answered the same held-out problems with the same random numbers, so answers are compared in pairs. This is a
signal that other federated learning lacks: a verifiable reward on problems nobody trained on. It catches what harms
accuracy, not a backdoor that leaves it alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median_low

from ...common.analysis.scores import paired_interval, points
from ...common.messages.messages import Evaluation, Tally
from ...common.messages.metric_names import NOISE
from ...common.settings.aggregation import Gate


def objection(
    candidate: Mapping[str, Evaluation],
    current: Mapping[str, Evaluation],
    kls: Sequence[float],
    settings: Gate,
    hostile: int,
) -> str:
    """Return why the candidate must not become the global adapter; empty if it may.

    Args:
        candidate: by organisation, its answers with the candidate, compared with those of the current adapter. Each
            speaks for at most as many problems as the lower median client: of two, the larger speaks for as many as
            the smaller, so that nobody decides by claiming to have many.
        current: by organisation, its answers with the current adapter.
        kls: mean KL of each client's policy from its reference, where clients tell it. The lower median of those
            that are one, which are not negative, counts: one of two clients cannot have a round rolled back.
        hostile: so many clients may lie, up or down: of those that compare, as many that speak most for the candidate
            and as many that speak most against it are not heard, as long as one is left.
    """
    possible = [kl for kl in kls if kl >= -NOISE]
    if settings.max_kl and possible and median_low(possible) > settings.max_kl:
        return f"the median client's KL is {median_low(possible):.3g}, gate.max-kl is {settings.max_kl:g}"
    comparing = {name: e.total for name, e in candidate.items() if e.total.compared}
    if not comparing:
        return "no client could compare the round's adapter with the one before"
    most = median_low(tally.compared for tally in comparing.values())  # of all: whoever is left may be the liar
    heard = _heard(comparing, hostile)
    parts = [(min(1.0, most / t.compared), t) for t in heard.values()]
    compared = sum(part * t.compared for part, t in parts)
    better, worse = sum(part * t.better for part, t in parts), sum(part * t.worse for part, t in parts)
    low, high = paired_interval(compared, better, worse)
    if high < settings.min_gain:
        change, interval = (better - worse) / compared, f"95 % interval {points(low)} to {points(high)}"
        return f"held-out accuracy would change by {points(change)} on {compared:.0f} problems ({interval})"
    rises = [_truncated(heard[name]) - _truncated(current[name].total) for name in heard if name in current]
    if rises and median_low(rises) > settings.max_truncation_rise:
        return f"the median client's share of truncated completions would rise by {points(median_low(rises))}"
    return ""


def _heard(tallies: Mapping[str, Tally], hostile: int) -> dict[str, Tally]:
    ordered = sorted(tallies, key=lambda n: ((tallies[n].better - tallies[n].worse) / tallies[n].compared, n))
    left_out = min(hostile, (len(ordered) - 1) // 2)
    return {name: tallies[name] for name in ordered[left_out : len(ordered) - left_out]}


def _truncated(tally: Tally) -> float:
    """Share of completions that were cut off. Intake takes no tally without a problem."""
    return tally.truncated / tally.problems
