"""The settings of what becomes of the updates: what the server takes, how it folds, what it sends, what it accepts."""

from __future__ import annotations

from dataclasses import dataclass

from ..adapter.methods import METHODS
from ..bounds import at_least, between, one_of
from ..errors import ConfigError

WEIGHTS = ("effective-groups", "examples", "tokens", "uniform", "relative-gain")
RULES = ("mean", "trimmed-mean", "median", "multi-krum", "geometric-median")
OPTIMIZERS = ("sgd", "momentum", "nesterov", "adam")
UP_CODECS = ("fp32", "bf16", "int8", "int4", "top-k")
DOWN_CODECS = ("fp32", "bf16", "int8", "int4")


def updates_needed(rule: str, hostile: int) -> int:
    """Fewest updates with which a rule stands so many hostile clients."""
    return {"multi-krum": 2 * hostile + 3, "trimmed-mean": 2 * hostile + 1}.get(rule, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregation:
    """How the server makes one update of many."""

    method: str = "ffa"
    """`ffa`: A frozen, mean of B, exact. `rolora`: A and B in turn, exact. `svd`: A and B, SVD of the mean product.
    `fedex`, `flora`: exact, the rest goes into the base's weights. `xs`: a core of rank x rank per layer. `tiny`:
    adapter.tiny-size numbers in all. `naive`: mean of A and of B, which is not the mean of BA."""
    weights: str = "effective-groups"
    """`effective-groups`, `examples`, `tokens`, `uniform`, or `relative-gain` (rise of a client's mean reward over its
    own last rounds, in its own standard deviations)."""
    max_share: float = 0.5
    """No client weighs more than this share, or 1/K where K clients cannot satisfy it."""
    min_share: float = 0.0
    """No client that has a weight weighs less than this share, or 1/K where K clients cannot satisfy it."""
    rank_weights: str = "all"
    """With clients of mixed ranks, a component's weights are shared by `all` clients, or by its `holders`, those whose
    rank is large enough to have it (raFLoRA)."""
    rule: str = "mean"
    """`mean`, or a robust rule: `trimmed-mean`, `median` (by coordinate), `multi-krum`, `geometric-median`."""
    hostile: int = 0
    """Hostile clients a robust rule and the reward gate are to stand."""
    server_optimizer: str = "sgd"
    """Makes a step of the mean delta: `sgd` (federated averaging), `momentum`, `nesterov`, `adam` (FedAdam)."""
    server_learning_rate: float = 1.0
    """Factor on the mean delta; 1 is federated averaging. For adam, a step of each number, like grpo.learning-rate."""
    server_momentum: float = 0.9
    """Decay of the server's mean of deltas: momentum, nesterov, adam's beta 1."""
    server_beta2: float = 0.99
    """Decay of adam's mean of squares."""
    server_epsilon: float = 1e-3
    """Added to the root of adam's mean of squares: about the smallest mean delta worth a full step."""

    def __post_init__(self) -> None:
        one_of("aggregation.method", self.method, tuple(METHODS))
        one_of("aggregation.weights", self.weights, WEIGHTS)
        between("aggregation.max-share", self.max_share, 0.0, 1.0, "it is a share of the mean", open_low=True)
        between("aggregation.min-share", self.min_share, 0.0, self.max_share, "it is at most aggregation.max-share")
        one_of("aggregation.rank-weights", self.rank_weights, ("all", "holders"))
        one_of("aggregation.rule", self.rule, RULES)
        between("aggregation.hostile", self.hostile, 0, 1000, "it is a number of clients")
        self._check_optimizer()
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
        between("aggregation.server-beta2", self.server_beta2, 0.0, 1.0, "it is a decay", open_high=True)
        between("aggregation.server-epsilon", self.server_epsilon, 0.0, 1.0, "it must not be 0", open_low=True)

    def _check_method(self) -> None:
        if self.server_optimizer != "sgd" and len(METHODS[self.method].trains) > 1:
            raise ConfigError(
                f"aggregation.server-optimizer is {self.server_optimizer} and aggregation.method is {self.method}: its "
                "mean would move a factor in a round in which the clients hold it still. Use sgd, or another method."
            )
        if METHODS[self.method].linear:
            return
        linear = ", ".join(name for name, method in METHODS.items() if method.linear)
        if self.server_optimizer != "sgd":
            raise ConfigError(
                f"aggregation.server-optimizer is {self.server_optimizer} and aggregation.method is {self.method}, "
                "whose factors are others after every fold, so that a running mean of them means nothing. Use sgd, or "
                f"one of: {linear}."
            )
        if self.rule in ("trimmed-mean", "median"):
            raise ConfigError(
                f"aggregation.rule is {self.rule}, which goes by coordinate, and aggregation.method is {self.method}, "
                f"whose products have no coordinates here. Use multi-krum or geometric-median, or one of: {linear}."
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
    """Deltas: `fp32`, `bf16`, `int8` or `int4` (blocks of 32 share an exponent), `top-k` (the largest, as bf16)."""
    down: str = "fp32"
    """The global adapter: `fp32`, `bf16`, `int8`, `int4`. It is what its rounding makes it, on the disk too; the server
    goes on from the unrounded one."""
    error_feedback: bool = True
    """Each client keeps what rounding took from its last delta that counted, and adds it to the next. Without it,
    rounding is random and right on average."""
    top_share: float = 0.05
    """Share of the numbers that top-k sends."""

    def __post_init__(self) -> None:
        one_of("compression.up", self.up, UP_CODECS)
        one_of("compression.down", self.down, DOWN_CODECS)
        between("compression.top-share", self.top_share, 0.0, 1.0, "it is a share of the numbers", open_low=True)
        if self.up == "top-k" and not self.error_feedback:
            raise ConfigError(
                "compression.up is top-k without compression.error-feedback: what is never among the largest would "
                "never be sent. Set error-feedback to true."
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
