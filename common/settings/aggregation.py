"""Aggregation, validation, compression and gating settings. docs/aggregation.md lists the choices."""

from __future__ import annotations

from dataclasses import dataclass

from ..adapter.compression import CODECS, DOWN, UP
from ..adapter.methods import METHODS
from ..aggregation.robust import RULES
from ..aggregation.weights import WEIGHTS
from ..bounds import at_least, between, one_of
from ..errors import ConfigError
from .automatic_method import AUTO

OPTIMIZERS = ("sgd", "momentum", "nesterov", "adam")
MOMENTUM = ("momentum", "nesterov")
ACCUMULATED = ("mean", "sum")


def updates_needed(rule: str, hostile: int) -> int:
    """Minimum number of updates for a robust rule to tolerate `hostile` Byzantine clients."""
    return RULES[rule].updates_needed(hostile)


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregation:
    """How the server makes one update of many."""

    method: str = AUTO
    """What the clients train and how it is aggregated. `auto`: `naive` (mean of A, mean of B), or where noise is added
    (`dp`, `privacy.noise-multiplier`) `ffa` (A frozen)."""
    weights: str = "effective-groups"
    """How much each client counts; `effective-groups` counts the groups whose rewards differ."""
    max_share: float = 0.5
    """No client weighs more than this share. Where it is not above an even share 1/K of the K clients that count, it
    would make all alike, and 2/K is the limit instead."""
    min_share: float = 0.0
    """No client that has a weight weighs less than this share, or 1/K where K clients cannot satisfy it."""
    rank_weights: str = "all"
    """With clients of mixed ranks, a component's weights are shared by `all` clients, or by its `holders`, those whose
    rank is large enough to have it (raFLoRA)."""
    rule: str = "mean"
    """`mean`, or a robust rule."""
    hostile: int = 0
    """Hostile clients a robust rule and the reward gate are to stand."""
    server_optimizer: str = "sgd"
    """Makes a step of the mean delta: `sgd` (federated averaging), `momentum`, `nesterov`, `adam` (FedAdam)."""
    server_learning_rate: float = 1.0
    """Factor on the step; at 1 a step is as long as the mean delta, or as its running mean, for every optimizer."""
    server_momentum: float = 0.9
    """Decay of the server's mean of deltas: momentum, nesterov, adam's beta 1."""
    server_accumulate: str = "mean"
    """What momentum and nesterov keep: the running `mean` of the deltas, or their decaying `sum`, as in the papers and
    in torch, whose steps grow to 1 / (1 - server-momentum) times the mean delta."""
    server_beta2: float = 0.99
    """Decay of adam's mean of squares."""
    server_epsilon: float = 0.1
    """Of adam, relative to the typical mean delta: numbers that move much less than this share of it move less."""

    def __post_init__(self) -> None:
        if self.method != AUTO:
            METHODS.choose("aggregation.method", self.method)
        WEIGHTS.choose("aggregation.weights", self.weights)
        between("aggregation.max-share", self.max_share, 0.0, 1.0, "it is a share of the mean", open_low=True)
        between("aggregation.min-share", self.min_share, 0.0, self.max_share, "it is at most aggregation.max-share")
        one_of("aggregation.rank-weights", self.rank_weights, ("all", "holders"))
        RULES.choose("aggregation.rule", self.rule)
        between("aggregation.hostile", self.hostile, 0, 1000, "it is a number of clients")
        self._check_optimizer()
        if self.method != AUTO:
            self._check_method()

    def _check_optimizer(self) -> None:
        one_of("aggregation.server-optimizer", self.server_optimizer, OPTIMIZERS)
        between(
            "aggregation.server-learning-rate",
            self.server_learning_rate,
            0.0,
            10.0,
            "1 is federated averaging, and more than 10 only diverges",
            open_low=True,
        )
        between("aggregation.server-momentum", self.server_momentum, 0.0, 1.0, "it is a decay", open_high=True)
        one_of("aggregation.server-accumulate", self.server_accumulate, ACCUMULATED)
        if self.server_accumulate == "sum" and self.server_optimizer not in MOMENTUM:
            raise ConfigError(
                f"aggregation.server-accumulate is sum and aggregation.server-optimizer is {self.server_optimizer}, "
                f"which has no such sum. Use mean, or one of: {', '.join(MOMENTUM)}."
            )
        between("aggregation.server-beta2", self.server_beta2, 0.0, 1.0, "it is a decay", open_high=True)
        between("aggregation.server-epsilon", self.server_epsilon, 0.0, 1.0, "it must not be 0", open_low=True)

    def _check_method(self) -> None:
        method = METHODS[self.method]
        if self.server_optimizer != "sgd" and len(method.trains) > 1:
            raise ConfigError(
                f"aggregation.server-optimizer is {self.server_optimizer} and aggregation.method is {self.method}: its "
                "mean would move a factor in a round in which the clients hold it still. Use sgd, or another method."
            )
        if method.linear:
            return
        linear = ", ".join(name for name, method in METHODS.built_in.items() if method.linear)
        if self.server_optimizer != "sgd":
            raise ConfigError(
                f"aggregation.server-optimizer is {self.server_optimizer} and aggregation.method is {self.method}, "
                "whose factors are others after every fold, so that a running mean of them means nothing. Use sgd, or "
                f"one of: {linear}."
            )
        if RULES[self.rule].by_coordinate:
            whole = ", ".join(name for name, rule in RULES.built_in.items() if rule.reweigh)
            raise ConfigError(
                f"aggregation.rule is {self.rule}, which goes by coordinate, and aggregation.method is {self.method}, "
                f"whose products have no coordinates here. Use one of the rules {whole}, or of the methods {linear}."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """What the server takes from a client."""

    max_delta_norm: float = 100.0
    """Largest L2 norm of an update."""
    on_large_delta: str = "clip"
    """`clip` scales a longer update down to the limit, `reject` drops it."""
    clip_to_median: float = 0.0
    """Also clip to so many times the median norm of the round before; 0 does not. 1 to 3 are usual."""

    def __post_init__(self) -> None:
        between(
            "intake.max-delta-norm", self.max_delta_norm, 0.0, 1e9, "every update has a norm above 0", open_low=True
        )
        one_of("intake.on-large-delta", self.on_large_delta, ("clip", "reject"))
        between("intake.clip-to-median", self.clip_to_median, 0.0, 1e6, "it is a multiple of a norm; 0 switches it off")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression:
    """How numbers are rounded before they travel. What is rounded away is added to what is sent next."""

    up: str = "fp32"
    """Codec of the deltas; `fp32` does not round."""
    down: str = "fp32"
    """Codec of the global adapter. Clients and checkpoints use the quantized adapter; the server keeps a full-precision
    master copy."""
    error_feedback: bool = True
    """Each client keeps what rounding took from its last delta that counted, and adds it to the next. Not with `svd`
    and `flora`, which change the factors each round. Without it, rounding is random and right on average, but for
    top-k."""
    top_share: float = 0.05
    """Share of the numbers that top-k sends."""

    def __post_init__(self) -> None:
        for way, name in ((UP, self.up), (DOWN, self.down)):
            if way not in CODECS.choose(f"compression.{way}", name).ways:
                others = ", ".join(n for n, codec in CODECS.built_in.items() if way in codec.ways)
                raise ConfigError(f"compression.{way} is {name}, which does not go this way. Use one of: {others}.")
        between("compression.top-share", self.top_share, 0.0, 1.0, "it is a share of the numbers", open_low=True)
        if CODECS[self.up].needs_feedback and not self.error_feedback:
            raise ConfigError(
                f"compression.up is {self.up} without compression.error-feedback: some numbers would never be sent "
                "(of top-k, what is never among the largest). Set error-feedback to true."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """The reward gate: a round's adapter must hold its own on held-out problems against the one before."""

    enabled: bool = False
    """Have the clients answer their held-out problems with each candidate. It is rolled back, and the round is void,
    where accuracy is surely lower (the paired 95 % interval lies below `min-gain`) or a wire below is tripped."""
    min_gain: float = 0.0
    """Accuracy a round must not surely miss to gain; below 0 is more patient."""
    max_truncation_rise: float = 0.2
    """A candidate whose share of truncated completions is higher by more than this is rolled back."""
    max_kl: float = 0.0
    """A round in which the median client's mean KL from its reference was above this is rolled back; 0 does not look.
    Needs grpo.beta above 0."""

    def __post_init__(self) -> None:
        between("gate.min-gain", self.min_gain, -1.0, 1.0, "it is a difference of two accuracies")
        between("gate.max-truncation-rise", self.max_truncation_rise, 0.0, 1.0, "it is a difference of two shares")
        at_least("gate.max-kl", self.max_kl, 0.0, "0 does not look")
