"""The settings to change if a plan does not fit, ordered by their cost.

First those that change only the time (the same completions, the same gradient up to rounding), then the representation
of the base model, then the experiment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...common.settings.run_config import RunConfig, Value

Values = dict[str, Value]
Turn = Callable[[RunConfig], Values | None]
"""Returns the settings after one turn of a knob; None at its end."""
LEAST_COMPLETION, LEAST_PROMPT, LEAST_RANK, LEAST_VLLM = 128, 256, 8, 0.15


@dataclass(frozen=True, slots=True)
class Knob:
    """A setting that saves memory, and the cost of turning it."""

    name: str
    costs: str
    turn: Turn


@dataclass(frozen=True, slots=True)
class Turned:
    """A knob as the proposal turns it, and the peak with this and the knobs before it."""

    knob: Knob
    values: Values
    peak_bytes: int


def proposal(config: RunConfig, peak: Callable[[RunConfig], int], limit: int) -> tuple[list[Turned], bool]:
    """Return settings with which the plan fits into `limit` bytes, or comes nearest: (knobs turned, whether it fits).

    Knobs are turned in order, each as far as it helps and is needed; those that turn out to be unnecessary are then
    turned back.
    """
    chosen: dict[str, Values] = {}
    for knob in KNOBS:
        current = peak(_with(config, chosen))
        while current > limit:
            values = knob.turn(_with(config, chosen))
            if values is None:
                break
            next_peak = peak(_with(config, {**chosen, knob.name: values}))
            if next_peak >= current:
                break
            chosen[knob.name], current = values, next_peak
    for name in reversed(list(chosen)):  # the most expensive knob first
        without = {key: values for key, values in chosen.items() if key != name}
        if peak(_with(config, without)) <= limit:
            chosen = without
    return _steps(config, chosen, peak), peak(_with(config, chosen)) <= limit


def _steps(config: RunConfig, chosen: dict[str, Values], peak: Callable[[RunConfig], int]) -> list[Turned]:
    steps: list[Turned] = []
    for knob in KNOBS:
        if knob.name in chosen:
            config = config.with_values(chosen[knob.name])
            steps.append(Turned(knob, chosen[knob.name], peak(config)))
    return steps


def _with(config: RunConfig, chosen: dict[str, Values]) -> RunConfig:
    for values in chosen.values():
        config = config.with_values(values)
    return config


def _smaller_passes(config: RunConfig) -> Values | None:
    size, passes = config.grpo.per_device_train_batch_size, config.grpo.gradient_accumulation_steps
    if (
        size % 2 or config.grpo.loss_type == "bnpo"
    ):  # bnpo divides by the tokens of a pass, so smaller passes would change the step
        return None
    return {"grpo.per-device-train-batch-size": size // 2, "grpo.gradient-accumulation-steps": passes * 2}


def _smaller_evaluation(config: RunConfig) -> Values | None:
    size = config.evaluation.batch_size
    return {"evaluation.batch-size": size // 2} if size > 1 else None


def _checkpointing(config: RunConfig) -> Values | None:
    return None if config.backend.gradient_checkpointing == "on" else {"backend.gradient-checkpointing": "on"}


def _less_for_vllm(config: RunConfig) -> Values | None:
    less = round(config.backend.gpu_memory_utilization - 0.05, 2)
    applies = config.backend.uses_vllm and not config.backend.vllm_url and less >= LEAST_VLLM
    return {"backend.gpu-memory-utilization": less} if applies else None


def _without_vllm(config: RunConfig) -> Values | None:
    here = config.backend.uses_vllm and not config.backend.vllm_url
    return {"backend.sampler": "transformers"} if here else None


def _bfloat16(config: RunConfig) -> Values | None:
    dense = config.method_name in ("fedex", "flora")
    return {"model.dtype": "bfloat16"} if config.model.dtype == "float32" and not dense else None


def _quantized(config: RunConfig) -> Values | None:
    dense = config.method_name in ("fedex", "flora")
    return {"backend.quantization": "4bit"} if config.backend.quantization != "4bit" and not dense else None


def _shorter_prompts(config: RunConfig) -> Values | None:
    length = config.grpo.max_prompt_length // 2
    return {"grpo.max-prompt-length": length} if length >= LEAST_PROMPT else None


def _shorter_completions(config: RunConfig) -> Values | None:
    length = config.grpo.max_completion_length // 2
    return {"grpo.max-completion-length": length} if length >= LEAST_COMPLETION else None


def _fewer_completions(config: RunConfig) -> Values | None:
    passes = config.grpo.gradient_accumulation_steps
    fewer = config.grpo.per_device_train_batch_size * (passes // 2)
    whole = passes > 1 and passes % 2 == 0 and fewer % config.grpo.num_generations == 0
    return {"grpo.gradient-accumulation-steps": passes // 2} if whole else None


def _smaller_rank(config: RunConfig) -> Values | None:
    rank, alpha = config.adapter.rank, config.adapter.alpha
    if rank // 2 < LEAST_RANK or rank % 2 or alpha % 2 or config.simulation.ranks.strip("0;"):
        return None
    return {"adapter.rank": rank // 2, "adapter.alpha": alpha // 2}


KNOBS = (
    Knob("smaller passes", "nothing but a little time: the same completions make the same step", _smaller_passes),
    Knob("evaluation in smaller batches", "nothing but a little time", _smaller_evaluation),
    Knob(
        "gradient checkpointing", "time: a third or so of the update, which computes activations twice", _checkpointing
    ),
    Knob("less for vLLM", "time: fewer completions are sampled at once", _less_for_vllm),
    Knob("no vLLM", "time: transformers samples more slowly, from the model that trains", _without_vllm),
    Knob("bfloat16 weights", "precision of the base model, which most are published in anyway", _bfloat16),
    Knob("4-bit weights", "precision of the base model, and time", _quantized),
    Knob("shorter prompts", "the longer prompts: they are left out of the shards", _shorter_prompts),
    Knob(
        "shorter completions", "long answers: they are cut off, and get no reward for correctness", _shorter_completions
    ),
    Knob("fewer completions a step", "noisier steps: half the groups", _fewer_completions),
    Knob("smaller rank", "capacity of the adapter", _smaller_rank),
)
