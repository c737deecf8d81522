"""The settings of local GRPO. Names and meanings are TRL's, except where a docstring says "ours"."""

from __future__ import annotations

from dataclasses import dataclass

from ..bounds import at_least, between, one_of
from ..errors import ConfigError

LOSS_TYPES = ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo")
LOWEST_TEMPERATURE = 0.01
OPTIMIZERS = ("adamw_torch_fused", "adamw_torch", "adamw_8bit", "paged_adamw_8bit")
"""The last two need bitsandbytes and a GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GRPO:
    """Local GRPO, which each client runs every round (Shao et al. 2024, arXiv:2402.03300). Names are TRL's."""

    num_generations: int = 8
    """Completions sampled per prompt (the group); their mean reward is the baseline."""
    per_device_train_batch_size: int = 32
    """Completions per forward and backward pass."""
    gradient_accumulation_steps: int = 1
    """Passes per optimizer step: a step sees batch size x this many completions."""
    max_completion_length: int = 256
    """Maximum number of sampled tokens."""
    max_prompt_length: int = 512
    """Prompts with more tokens are left out of the shard, and counted (ours: TRL never shortens a prompt)."""
    learning_rate: float = 1e-5
    lr_scheduler_type: str = "constant"
    """Covers the whole federation's steps; it does not restart each round."""
    warmup_ratio: float = 0.0
    """Share of the federation's steps over which the learning rate rises."""
    beta: float = 0.0
    """Weight of the KL term; 0 loads no reference."""
    kl_reference: str = "none"
    """The reference of the KL term: `base` model, the round's `global` adapter, or `none` (beta = 0)."""
    epsilon: float = 0.2
    """Clip of the probability ratio: from 1 - epsilon ..."""
    epsilon_high: float = 0.2
    """... to 1 + epsilon-high. Independent of epsilon: set both. For `cispo` it is the largest ratio itself (5, say),
    and epsilon has no meaning; `sapo` and `vespo` use neither."""
    delta: float = 0.0
    """Largest probability ratio of a completion below its group's mean, which epsilon does not bound (two-sided
    clipping, INTELLECT-2, arXiv:2505.07291); 0 bounds none. Where vLLM samples, 4 keeps a token that it found much
    less probable than the trainer does from outweighing the rest."""
    loss_type: str = "dapo"
    scale_rewards: str = "group"
    importance_sampling_level: str = "token"
    multi_objective_aggregation: str = "sum_then_normalize"
    num_iterations: int = 1
    off_policy_mask_threshold: float = 0.0
    """Excludes completions below the group's mean that have drifted further from the sampler than this, in nats per
    token (DeepSeek-V3.2, arXiv:2512.02556); 0 excludes none."""
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    mask_truncated_completions: bool = False
    max_grad_norm: float = 1.0
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.99
    optim: str = "adamw_torch_fused"

    @property
    def prompts_per_step(self) -> int:
        """Number of different prompts whose groups form one optimizer step."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps // self.num_generations

    def __post_init__(self) -> None:
        if self.num_generations < 2:
            raise ConfigError(
                f"grpo.num-generations is {self.num_generations}, but an advantage is a reward minus the mean of "
                "its group, which is always 0 in a group of one. Set it to 2 or more."
            )
        at_least("grpo.per-device-train-batch-size", self.per_device_train_batch_size, 1, "a pass needs a completion")
        at_least("grpo.gradient-accumulation-steps", self.gradient_accumulation_steps, 1, "a step needs a pass")
        completions = self.per_device_train_batch_size * self.gradient_accumulation_steps
        if completions % self.num_generations:
            raise ConfigError(
                f"A step samples per-device-train-batch-size x gradient-accumulation-steps = {completions} "
                f"completions, which is not a whole number of groups of grpo.num-generations = "
                f"{self.num_generations}. Make one a multiple of the other."
            )
        self._check_kl()
        self._check_sampling()
        self._check_objective()
        self._check_optimizer()

    def _check_kl(self) -> None:
        one_of("grpo.kl-reference", self.kl_reference, ("base", "global", "none"))
        at_least("grpo.beta", self.beta, 0.0, "a negative weight would reward drift from the reference")
        if (self.beta > 0) == (self.kl_reference == "none"):
            raise ConfigError(
                f"grpo.beta is {self.beta} and grpo.kl-reference is {self.kl_reference}. A KL term needs both a "
                "weight and a reference: set beta above 0 with base or global, or beta = 0 with none."
            )

    def _check_sampling(self) -> None:
        at_least(
            "grpo.max-completion-length",
            self.max_completion_length,
            1,
            "an empty completion has no reward to learn from",
        )
        at_least("grpo.max-prompt-length", self.max_prompt_length, 1, "every prompt would be too long")
        between(
            "grpo.temperature",
            self.temperature,
            LOWEST_TEMPERATURE,
            10.0,
            "towards 0 all completions of a group are the same, and logits divided by it overflow",
        )
        between("grpo.top-p", self.top_p, 0.0, 1.0, "it is a share of the probability mass", open_low=True)
        at_least("grpo.top-k", self.top_k, 0, "0 turns it off")

    def _check_objective(self) -> None:
        between(
            "grpo.epsilon",
            self.epsilon,
            0.0,
            1.0,
            "it bounds the probability ratio to 1 - epsilon from below",
            open_low=True,
        )
        at_least(
            "grpo.epsilon-high",
            self.epsilon_high,
            0.0,
            "it bounds the probability ratio to 1 + epsilon-high from above",
        )
        at_least("grpo.delta", self.delta, 0.0, "0 bounds no ratio")
        if 0 < self.delta <= 1 + self.epsilon_high:
            raise ConfigError(
                f"grpo.delta is {self.delta:g}, within the clip of 1 + epsilon-high = {1 + self.epsilon_high:g}: it "
                "bounds the ratios beyond that. Set 0, or more; INTELLECT-2 uses 4."
            )
        one_of("grpo.loss-type", self.loss_type, LOSS_TYPES)
        if self.loss_type == "cispo" and self.epsilon_high < 1:
            raise ConfigError(
                f"grpo.epsilon-high is {self.epsilon_high:g} and grpo.loss-type is cispo, which takes it for the "
                "largest probability ratio itself, not for its distance from 1: even an unchanged policy has ratio 1, "
                "and would be cut. Set 1 or more; ScaleRL and TRL recommend 5."
            )
        one_of("grpo.scale-rewards", self.scale_rewards, ("group", "batch", "none"))
        one_of("grpo.importance-sampling-level", self.importance_sampling_level, ("token", "sequence"))
        one_of(
            "grpo.multi-objective-aggregation",
            self.multi_objective_aggregation,
            ("sum_then_normalize", "normalize_then_sum"),
        )
        at_least("grpo.off-policy-mask-threshold", self.off_policy_mask_threshold, 0.0, "0 excludes none")
        between("grpo.num-iterations", self.num_iterations, 1, 1000, "each batch is used at least once")

    def _check_optimizer(self) -> None:
        one_of("grpo.optim", self.optim, OPTIMIZERS)
        between(
            "grpo.learning-rate",
            self.learning_rate,
            0.0,
            1.0,
            "0 learns nothing and more than 1 destroys any adapter",
            open_low=True,
        )
        one_of("grpo.lr-scheduler-type", self.lr_scheduler_type, ("constant", "linear", "cosine"))
        between("grpo.warmup-ratio", self.warmup_ratio, 0.0, 1.0, "it is a share of the federation's steps")
        between(
            "grpo.max-grad-norm", self.max_grad_norm, 0.0, 1e6, "gradients are scaled down to this norm", open_low=True
        )
        between("grpo.weight-decay", self.weight_decay, 0.0, 1.0, "it is a share per step, times the learning rate")
        between("grpo.adam-beta1", self.adam_beta1, 0.0, 1.0, "it is the decay of a running mean", open_high=True)
        between("grpo.adam-beta2", self.adam_beta2, 0.0, 1.0, "it is the decay of a running mean", open_high=True)
