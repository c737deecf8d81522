"""What happens in a federation, as values. They go out through `logging`, so whoever watches chooses how.

Without a listener of its own (in `flwr run`, under systemd) each event is one plain line; the simulator's screen and a
test attach a handler and read `record.event`.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from math import isnan

from ...common.analysis.contributions import LITTLE_SIGNAL, in_words, signal_of
from ...common.analysis.reward_hacking import HackingWarning
from ...common.analysis.scores import Score
from ...common.foreign import safe_logger

LOGGER = safe_logger("fedgrpo.federation")


@dataclass(frozen=True, slots=True)
class Joined:
    """A client answered the first query and may take part."""

    organisation: str
    examples: int
    prompts_too_long: int
    held_out: int = 0

    def __str__(self) -> str:
        too_long = self.prompts_too_long
        left_out = f" ({too_long} left out: too long, or not a whole block)" if too_long else ""
        held_out = f" and {self.held_out} held-out problems" if self.held_out else ""
        prompts = f" with {self.examples} prompts{left_out}{held_out}" if self.examples else ""
        return f"{self.organisation} joined{prompts}"


@dataclass(frozen=True, slots=True)
class NotJoined:
    """A client was turned away, or could not answer."""

    node: int
    reason: str

    def __str__(self) -> str:
        return f"node {self.node} cannot take part: {self.reason}"


@dataclass(frozen=True, slots=True)
class TooFewClients:
    """Clients went away, and the next round waits for them to come back."""

    connected: int
    needed: int
    timeout_s: float

    def __str__(self) -> str:
        return (
            f"{self.connected} of the {self.needed} clients needed are connected (federation.min-clients): "
            f"waiting up to {self.timeout_s:.0f} s for one to join"
        )


@dataclass(frozen=True, slots=True)
class RoundStarted:
    """A cohort was asked to train."""

    round: int
    attempt: int
    cohort: tuple[str, ...]

    def __str__(self) -> str:
        again = f", attempt {self.attempt}" if self.attempt > 1 else ""
        return f"round {self.round}{again}: {len(self.cohort)} clients train"


@dataclass(frozen=True, slots=True)
class UpdateTaken:
    """A valid update came in."""

    round: int
    organisation: str
    metrics: dict[str, float]
    bytes_up: int

    def __str__(self) -> str:
        told, (informative, right, wrong) = self.metrics, signal_of(self.metrics)
        if informative < LITTLE_SIGNAL:
            return f"round {self.round}: {in_words(self.organisation, informative, right, wrong)}"
        parts = [
            f"reward {told['reward/mean']:.3f}" if "reward/mean" in told else "",
            "" if isnan(informative) else f"{informative:.0%} of groups with signal",
            f"{told['seconds/total']:.1f} s" if "seconds/total" in told else "",
        ]
        return f"round {self.round}: {self.organisation} {', '.join(p for p in parts if p) or 'sent its update'}"


@dataclass(frozen=True, slots=True)
class SumGrew:
    """A client's masked vector was added to a sum, of kind `train` or `evaluate`."""

    round: int
    kind: str
    organisation: str
    members: int
    """In the sum so far."""

    def __str__(self) -> str:
        return f"round {self.round}: {self.organisation}'s masked vector ({self.kind}) is in, {self.members} in the sum"


@dataclass(frozen=True, slots=True)
class UpdateRefused:
    """A reply was late, failed or broke the protocol. It costs that reply only."""

    round: int
    organisation: str
    code: str
    reason: str

    def __str__(self) -> str:
        return f"round {self.round}: no update from {self.organisation} ({self.reason})"


@dataclass(frozen=True, slots=True)
class RoundCommitted:
    """A new global adapter is on the disk."""

    round: int
    adapter_sha256: str
    valid: int
    asked: int
    seconds: float
    bytes_up: int
    bytes_down: int
    moved: bool
    """Whether the adapter is another than before."""

    def __str__(self) -> str:
        why = "every group had zero reward variance, or every learning rate was 0 (warm-up)"
        still = "" if self.moved else f"; adapter unchanged: {why}"
        return (
            f"round {self.round} committed: {self.valid} of {self.asked} updates, {self.seconds:.1f} s, "
            f"up {self.bytes_up / 1e6:.2f} MB, down {self.bytes_down / 1e6:.2f} MB, "
            f"adapter {self.adapter_sha256[:12]}{still}"
        )


@dataclass(frozen=True, slots=True)
class SharesCapped:
    """`aggregation.max-share` cut down what clients count in the round that is committed next."""

    round: int
    shares: dict[str, float]
    """What they count, by organisation."""

    def __str__(self) -> str:
        cut = ", ".join(f"{name} to {share:.1%}" for name, share in sorted(self.shares.items()))
        return f"round {self.round}: aggregation.max-share limits the weight of {cut}"


@dataclass(frozen=True, slots=True)
class RoundVoid:
    """Too few valid updates: the adapter stays, the round is tried again."""

    round: int
    attempt: int
    reason: str

    def __str__(self) -> str:
        return f"round {self.round} void (attempt {self.attempt}): {self.reason}"


@dataclass(frozen=True, slots=True)
class EvaluationStarted:
    """Clients were asked to answer their held-out problems, which takes minutes with a real model."""

    round: int
    decoding: str
    """`sampled` or `greedy`."""
    cohort: tuple[str, ...]

    def __str__(self) -> str:
        when = f"after round {self.round}" if self.round else "before round 1"
        return f"{when}: {len(self.cohort)} client{'s' * (len(self.cohort) != 1)} evaluate ({self.decoding})"


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Held-out problems were answered, `sampled` or `greedy`, with the adapter of `round` (0: before training)."""

    round: int
    decoding: str
    score: Score

    def __str__(self) -> str:
        if self.round == 0:
            return f"before round 1: {self.decoding} accuracy {self.score.strict:.1%} of {self.score.problems}"
        return f"after round {self.round}: {self.decoding} accuracy {self.score}"


@dataclass(frozen=True, slots=True)
class NotEvaluated:
    """Policies let no counts of held-out answers out."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Warned:
    """A tripwire: the policy may be learning to please its rewards instead of answering."""

    tripped: HackingWarning

    def __str__(self) -> str:
        return str(self.tripped)


Event = (
    Joined
    | NotJoined
    | TooFewClients
    | RoundStarted
    | UpdateTaken
    | SumGrew
    | UpdateRefused
    | RoundCommitted
    | SharesCapped
    | RoundVoid
    | EvaluationStarted
    | Evaluated
    | NotEvaluated
    | Warned
)


def emit(event: Event) -> None:
    """Send an event out: one log record, whose text is one line and whose `event` is the value."""
    LOGGER.info(str(event), extra={"event": event})


def show_plain_lines() -> None:
    """Make sure that somebody hears: print plain lines unless the process has set up a listener already."""
    if not LOGGER.hasHandlers() or not LOGGER.isEnabledFor(logging.INFO):
        LOGGER.setLevel(logging.INFO)
        LOGGER.addHandler(logging.StreamHandler(sys.stderr))
