"""The settings of a federation: cohort, quorum, deadlines and retries."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..bounds import at_least, between


@dataclass(frozen=True, slots=True, kw_only=True)
class Federation:
    """Cohort, quorum, deadlines and retries of a federation."""

    rounds: int = 10
    """Rounds to commit; a void round is retried and does not count."""
    seed: int = 0
    """All randomness derives from it: the frozen factors, the prompt order, sampling."""
    min_clients: int = 2
    """Clients that must have joined, and agree on model and adapter, before a round starts."""
    start_clients: int = 0
    """Clients to wait for before the first round, for at most join-timeout-s; 0 starts with min-clients."""
    clients_per_round: int = 0
    """Cohort size, drawn at random each round; 0 uses every client."""
    quorum: float = 0.5
    """Smallest share of the cohort whose updates must be valid, or the round is void."""
    min_updates: int = 2
    """Minimum number of valid updates, in addition to the quorum; a smaller cohort has to reply in full."""
    join_timeout_s: float = 600.0
    """Seconds to wait for min-clients, before the first round and whenever clients went away. A client loads its model
    before it joins."""
    round_timeout_s: float = 3600.0
    """Deadline of a round, in seconds; later replies do not count."""
    ask_again_s: float = 60.0
    """Seconds for which a client whose process died is asked again before the round continues without it. A client that
    is silent for this long is asked whether it is still working, and gets its task again if it is not."""
    max_void_rounds: int = 3
    """Void attempts in a row after which the run stops."""
    retry_wait_s: float = 1.0
    """Pause before a void round is retried, in seconds; doubles each time."""
    min_tokens_per_second: float = 0.0
    """Slowest client that may join, by its own measurement; 0 accepts any, also without a measurement."""
    max_strikes: int = 3
    """Refused replies after which a client is excluded from the rest of the run."""

    def updates_needed(self, cohort: int) -> int:
        """Return the number of valid updates that a round with a cohort of this size needs."""
        return max(math.ceil(cohort * self.quorum), min(self.min_updates, cohort))

    def __post_init__(self) -> None:
        at_least("federation.rounds", self.rounds, 1, "a federation without rounds trains nothing")
        between("federation.seed", self.seed, 0, (1 << 32) - 1, "seeds are not negative, and have 32 bits")
        at_least("federation.min-clients", self.min_clients, 1, "at least one client has to train")
        at_least("federation.start-clients", self.start_clients, 0, "0 starts with min-clients")
        at_least("federation.clients-per-round", self.clients_per_round, 0, "0 uses every client")
        between(
            "federation.quorum",
            self.quorum,
            0.0,
            1.0,
            "it is a share of the cohort, and a round without updates must not count",
            open_low=True,
        )
        at_least("federation.min-updates", self.min_updates, 1, "a round without updates must not count")
        at_least("federation.join-timeout-s", self.join_timeout_s, 0, "it is a time in seconds")
        at_least("federation.round-timeout-s", self.round_timeout_s, 1, "no client can reply sooner")
        at_least("federation.ask-again-s", self.ask_again_s, 0, "0 never asks again")
        at_least(
            "federation.max-void-rounds",
            self.max_void_rounds,
            1,
            "with 0 the first void attempt would stop the run",
        )
        at_least("federation.retry-wait-s", self.retry_wait_s, 0, "it is a time in seconds")
        at_least("federation.min-tokens-per-second", self.min_tokens_per_second, 0.0, "0 accepts any client")
        at_least("federation.max-strikes", self.max_strikes, 1, "with 0 a client would be excluded before it is asked")
