"""The [policy] section of an organisation's file: its limits, all closed by default."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...common.bounds import at_least, between, one_of
from ...common.errors import ConfigError

SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the server may ask for, and what may leave. Everything not allowed here is refused (docs/security.md)."""

    privacy: str = "secagg"
    """`secagg` takes part in runs with secure aggregation only; `none` lets the delta itself leave, clipped."""
    manifest_sha256: str = ""
    """Fingerprint of the federation's manifest, compared over another channel (`fedgrpo manifest fingerprint`)."""
    app_sha256: tuple[str, ...] = ()
    """SHA-256 of the app bundles that a run may come with (`fedgrpo server bundle`); empty takes the one of the
    fedgrpo that is installed here. Of no bundle is any code run: what answers is the installed fedgrpo."""
    max_rank: int = 0
    max_alpha: int = 64
    """The adapter is scaled by alpha / rank: a large alpha would undo max-learning-rate."""
    methods: tuple[str, ...] = ()
    """Aggregation methods the server may choose. With `fedex` and `flora` it sets whole weight matrices of the model:
    max-rank and max-alpha bound nothing."""
    target_modules: tuple[str, ...] = ()
    """Layers that may be adapted: `all-linear`, or names."""
    max_learning_rate: float = 0.0
    min_learning_rate: float = 1e-8
    """With hardly any, the policy stays as the server sent it, and many rounds would ask one question."""
    min_temperature: float = 0.1
    """Of training; greedy completions would answer the same question alike each time."""
    max_rounds: int = 0
    max_steps_per_round: int = 0
    max_seconds_per_round: float = 0.0
    """Of time-budget rounds; rounds by steps alone are limited by max-steps-per-round."""
    max_generations: int = 0
    """Completions per prompt."""
    max_completions_per_step: int = 0
    """Completions sampled for one optimizer step, and answered at once in an evaluation."""
    max_new_tokens: int = 0
    """Tokens of a completion."""
    max_left_out_share: float = 0.5
    """Share of the prompts that grpo.max-prompt-length may leave out: means over the few left would tell too much."""
    min_members: int = 3
    """Fewest clients whose updates make a round: the quorum of the cohort must be at least this."""
    max_delta_norm: float = 0.0
    """A delta is scaled down to this L2 norm before it leaves."""
    max_bytes_per_round: int = 0
    """Bytes of the delta."""
    metrics: tuple[str, ...] = ()
    """Training metrics that may leave; `*` stands for anything: `groups/*`. Rewards are named in `reward/NAME/mean`."""
    min_groups: int = 8
    """Prompts are trained on in fixed blocks of this many, and a round is made of whole blocks: nothing that leaves
    can be solved for a single prompt. 1 allows any round."""
    max_epsilon: float = 0.0
    """Privacy budget, of all runs together: only runs with differential privacy are trained, until it is spent. 0
    trains without, and refuses runs with it."""
    max_delta: float = 1e-5
    """Delta for which a run states its epsilon, at most."""
    max_trainings: int = 0
    """Rounds trained in all runs together, attempts included."""
    max_evaluations: int = 0
    """Evaluations in all runs together."""
    evaluate: bool = False
    """Whether counts of right and wrong held-out answers may leave."""
    class_columns: tuple[str, ...] = ()
    """Columns that those counts may be split by; `style` is the answers' format."""
    min_class_problems: int = 10
    """A class of fewer held-out problems is left out of the counts, and so is one that would give it away."""
    report_hardware: bool = False
    """Whether device, memory and speed may leave."""

    def __post_init__(self) -> None:
        one_of("policy.privacy", self.privacy, ("none", "secagg"))
        if self.manifest_sha256 and not SHA256.fullmatch(self.manifest_sha256):
            raise ConfigError(
                "policy.manifest-sha256 is not 64 hexadecimal digits. `fedgrpo manifest fingerprint` prints it."
            )
        odd = [text for text in self.app_sha256 if not SHA256.fullmatch(text)]
        if odd:
            raise ConfigError(
                f"policy.app-sha256 has {odd[0]!r}, which is not a SHA-256: 64 hexadecimal digits, in small letters. "
                "`fedgrpo server bundle` prints the one of the operator, or of the fedgrpo that is installed here."
            )
        at_least("policy.min-groups", self.min_groups, 1, "a round has at least one group")
        at_least("policy.min-class-problems", self.min_class_problems, 1, "a class has at least one problem")
        between("policy.max-left-out-share", self.max_left_out_share, 0.0, 1.0, "it is a share of the prompts")
        for name in ("max_learning_rate", "min_learning_rate", "min_temperature", "max_seconds_per_round"):
            at_least(f"policy.{name.replace('_', '-')}", getattr(self, name), 0.0, "a limit is a number from 0 on")
        at_least("policy.max-epsilon", self.max_epsilon, 0.0, "0 trains without differential privacy")
        why = "it bounds the probability that the guarantee fails"
        between("policy.max-delta", self.max_delta, 0.0, 0.1, why, open_low=True)
        at_least("policy.max-delta-norm", self.max_delta_norm, 0.0, "it is a length")
