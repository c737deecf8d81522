"""Groups of completions of the base model, for an organisation to see whether its rewards tell them apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..data.problems import Problem

if TYPE_CHECKING:
    from ..training.local_learner import LoadedModel


def base_groups(
    model: LoadedModel, problems: Sequence[Problem], system_prompt: str
) -> list[tuple[Problem, list[tuple[str, Any]]]]:
    """Return a group of completions, (text, Sampled), for each prompt, sampled as in training.

    The adapter is fresh, so these are the base model's. One prompt at a time, to need no more memory than a step.
    """
    from ..models.chat_template import texts
    from ..samplers import Sampling
    from ..training.evaluate import prompt_texts

    sampler, tokenizer, grpo = model.trainer.sampler, model.tokenizer, model.config.grpo
    groups: list[tuple[Problem, list[tuple[str, Any]]]] = []
    for seed, prompt in enumerate(prompt_texts(tokenizer, problems, system_prompt)):
        ids = tokenizer([prompt], add_special_tokens=False)["input_ids"]
        sampling = Sampling(
            max_tokens=grpo.max_completion_length,
            temperature=grpo.temperature,
            seed=seed,
            top_p=grpo.top_p,
            top_k=grpo.top_k,
        )
        (group,) = sampler.sample(ids, sampling, count=grpo.num_generations)
        completed = texts(tokenizer, [one.tokens for one in group])
        groups.append((problems[seed], list(zip(completed, group, strict=True))))
    return groups
