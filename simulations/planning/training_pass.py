"""The tokens of one forward and backward pass, and the memory of its logits."""

from __future__ import annotations

from dataclasses import dataclass

from ...common.settings.run_config import RunConfig
from .parts import TILE_TOKENS, TILE_WORDS, TILES_ON_CPU, UPDATE, Machine, Part
from .shapes import Shape


@dataclass(frozen=True, slots=True)
class TrainingPass:
    """One pass of training, padding included."""

    completions: int
    scored: int
    """Tokens of the completions."""
    prompts: int
    """How often a prompt is computed: once for each completion, or once for each different prompt."""
    prompt_length: int
    shared: bool
    """Whether each prompt is computed once for its group; the trainer's rule (docs/decisions/019)."""

    @classmethod
    def of(cls, config: RunConfig, checkpointing: bool) -> TrainingPass:
        """Return the largest pass that the settings allow."""
        grpo, completions = config.grpo, config.grpo.per_device_train_batch_size
        shared = config.backend.shared_prompts and not checkpointing
        return cls(
            completions=completions,
            scored=completions * grpo.max_completion_length,
            prompts=min(completions, grpo.prompts_per_step) if shared else completions,
            prompt_length=grpo.max_prompt_length,
            shared=shared,
        )

    @property
    def tokens(self) -> int:
        """N: tokens that the layers compute."""
        return self.prompts * self.prompt_length + self.scored

    @property
    def copied(self) -> int:
        """Return the tokens of prompts whose keys and values are copied, for each completion."""
        return self.completions * self.prompt_length if self.shared else 0


def logits(training_pass: TrainingPass, shape: Shape, machine: Machine, width: int) -> Part:
    """Return the part of the logits and of what is computed from them."""
    scored = training_pass.scored
    if not machine.tiled_logits:
        both = 2 * width * (scored + training_pass.completions) * shape.vocabulary
        formula = f"2 x {width} x completion tokens x vocabulary: they and their gradient"
        return Part("logits", both, UPDATE, formula)
    if machine.kind == "cpu" and not training_pass.shared:
        scored = training_pass.tokens  # without Triton, prompts are scored too
    rows, words = min(scored, TILE_TOKENS), min(TILE_WORDS, shape.vocabulary)
    hidden = (4 + width) * scored * shape.hidden
    if machine.kind == "cuda":
        tile = width * rows * TILE_WORDS
        return Part("logits", tile + hidden, UPDATE, f"a tile of 4,096 x 32,768 x {width}, gradient of the hidden")
    tiles = (width + 4 * TILES_ON_CPU) * rows * words + 2 * width * words * shape.hidden
    formula = "8 tiles of 4,096 x 32,768 x 4, two copies of a tile's weights, gradient of the hidden"
    return Part("logits", tiles + hidden, UPDATE, formula)
