"""The verdict and the advice in words that a person who signs can use."""

from __future__ import annotations

from ...common.analysis.roc import Interval, others_needed
from .findings import LEAKS, NOT_COMPARABLE, Findings, unresolved
from .signals import CONTROLS, SIGNALS

OFTEN_READ = 2.0


def verdict(found: Findings) -> str:
    """Return the verdict in two or three sentences."""
    if found.verdict == LEAKS:
        return f"The adapter gives away which prompts it was trained on. {_how_well(found)}"
    if found.verdict == NOT_COMPARABLE:
        control = next(each for each in found.controls if each.tells)
        return (
            "This audit cannot tell. The two kinds of prompts differ by themselves: the base model, which was trained "
            f"on none of them, tells them apart as well (AUC {control.auc.value:.2f}, {CONTROLS[control.signal]}). "
            "Hold out prompts by chance from the same source, or plant canaries."
        )
    highest = max(each.auc.high for each in found.signals)
    return (
        f"Not found: none of {len(found.signals)} signals tells prompts that were trained on from others better than "
        f"chance would. That is not proof: with {found.members} and {found.others} prompts, attacks up to an AUC of "
        f"{highest:.2f} would have stayed unseen, and a better attack may exist."
    )


def epsilon(found: Findings, ledger: float | None) -> str:
    """Return what the coins say about epsilon, beside the ledger's; empty without coins."""
    coins = found.coins
    if coins is None:
        return ""
    counted = f"{coins.right} of {coins.guesses} guesses about {coins.canaries} coins were right"
    if coins.epsilon == 0:
        text = f"No lower bound on epsilon above 0: {counted}, which chance allows."
    else:
        text = (
            f"Epsilon is at least {coins.epsilon:.2f} (delta {coins.delta:g}, {coins.confidence:.0%} confidence): "
            f"{counted}."
        )
    if ledger is None:
        return f"{text} There is no privacy ledger: training was not differentially private."
    if coins.epsilon > ledger:
        return (
            f"{text} The privacy ledger claims epsilon {ledger:g}, which this contradicts: the claim is wrong. Do not "
            "release the adapter before the cause is found."
        )
    return f"{text} The privacy ledger claims epsilon {ledger:g}, which agrees with it."


def advice(found: Findings, *, reads: float, private: bool) -> list[str]:
    """Return what to do, most effective first; what to keep in mind if nothing was found."""
    if found.verdict != LEAKS:
        few = (
            f"{found.others} held-out prompts are fewer than the {others_needed()} that a lower bound on true "
            "positives at 1 % false ones needs."
        )
        return [few] if unresolved(found) else []
    noise = "Raise the noise of differential privacy (a smaller epsilon)." if private else "Train with differential "
    often = f" Each was trained on {reads:.1f} times here." if reads > OFTEN_READ else ""
    return [
        noise if private else f"{noise}privacy: nothing else bounds what any attack can find.",
        f"Train on each prompt fewer times: fewer rounds, or more prompts.{often}",
        "Release an adapter of an earlier round, after an audit of that one (RUN/adapters/NUMBER).",
        "Give the adapter only to those who may know the prompts, or offer answers without probabilities.",
        "Secure aggregation does not help here: it hides updates, not what the adapter itself has learned.",
    ]


def _how_well(found: Findings) -> str:
    """Return the strength of the best attack; what the coins show, if they alone tell."""
    best = found.best
    if not best.tells:
        return "The comparison with held-out prompts does not show it, but the coins do (below)."
    auc = best.auc if best.auc.value >= 0.5 else _mirrored(best.auc)
    tries, low, high = (round(100 * share) for share in (auc.value, auc.low, auc.high))
    return (
        f"Of two prompts, one of them trained on, an attacker who has the adapter picks the right one {tries} times "
        f"in 100 (95 % interval {low} to {high}; guessing: 50), by the {SIGNALS[best.signal]}. When he may accuse 1 "
        f"in 100 wrongly, he recognises {best.tpr.value:.1%} of the prompts that were trained on (guessing: 1 %)."
    )


def _mirrored(auc: Interval) -> Interval:
    """Return the area of the opposite guess, where a low score tells."""
    return Interval(1 - auc.value, 1 - auc.high, 1 - auc.low)
