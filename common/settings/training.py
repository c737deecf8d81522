"""The settings of a client's local work in a round, except those of GRPO itself."""

from __future__ import annotations

from dataclasses import dataclass

from ..bounds import at_least, between, one_of

OPTIMIZER_STATES = ("fresh", "kept")


@dataclass(frozen=True, slots=True, kw_only=True)
class Train:
    """Local work of a client in a round."""

    steps_per_round: int = 4
    """Optimizer steps of each client per round."""
    seconds_per_round: float = 0.0
    """Time budget: a client stops before a step that would not fit, and after steps-per-round at the latest. Fast and
    slow clients then finish together, and deltas are normalised by their steps. 0 does not limit the time. Not
    bit-reproducible."""
    block_size: int = 0
    """Prompts that are always trained on together: fixed blocks of prompts of similar length. 0 leaves it to each
    organisation's policy, whose min-groups it must be a multiple of; simulated clients then read single prompts."""
    prox: float = 0.0
    """FedProx (Li et al. 2020, arXiv:1812.06127): adds prox / 2 times the squared distance of the trained factors from
    the round's global adapter to the loss."""
    prompt_selection: str = "order"
    """Prompts of a round: `order` takes the next of the shard, each once per epoch; `signal` draws more often, by
    p (1 - p), those whose rewards differed in earlier rounds. What prompts have shown stays at the organisation."""
    min_signal: float = 0.0
    """Adaptive local work: a client ends its round where fewer than this share of the groups of its last two steps (or
    of its last blocks) had rewards that differ, and takes steps-per-round at most. Deltas are normalised by their
    steps. 0 takes all steps."""

    optimizer_state: str = "fresh"
    """What Adam knows at the start of a client's round: nothing (`fresh`, docs/decisions/003), or its second moment
    from the client's last round that counted (`kept`, FedAdamW, arXiv:2510.27486), on the organisation's disk alone."""
    replay: int = 0
    """Of the groups of a step that have no signal, so many at most give their places to the client's own recent groups
    that had one (RePO, arXiv:2506.09340), on the organisation's disk alone. 0 replays none."""
    replay_rounds: int = 2
    """Rounds before this one whose groups are still replayed."""

    def __post_init__(self) -> None:
        one_of("train.optimizer-state", self.optimizer_state, OPTIMIZER_STATES)
        at_least("train.steps-per-round", self.steps_per_round, 1, "a round without a step has no update")
        at_least("train.seconds-per-round", self.seconds_per_round, 0.0, "0 does not limit the time")
        at_least("train.block-size", self.block_size, 0, "0 leaves it to each organisation's policy")
        at_least("train.replay", self.replay, 0, "0 replays none")
        at_least("train.replay-rounds", self.replay_rounds, 0, "0 replays groups of the same round alone")
        at_least("train.prox", self.prox, 0.0, "it is the weight of a penalty; 0 turns it off")
        one_of("train.prompt-selection", self.prompt_selection, ("order", "signal"))
        between("train.min-signal", self.min_signal, 0.0, 1.0, "it is a share of groups; 0 takes all steps")

    @property
    def may_end_early(self) -> bool:
        """Whether a client may take fewer steps than steps-per-round."""
        return self.seconds_per_round > 0 or self.min_signal > 0
