"""What both models do with each prompt of an audit: completions, their rewards, and the likelihood of every token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...client.learner.data.problems import Problem
from ...client.learner.rewards import Reward
from ...client.learner.samplers import Sampled, Sampling
from ..evaluation.questions import paid
from .signals import Observed

if TYPE_CHECKING:
    from ...client.learner.training.local_learner import LoadedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """How completions are drawn, which is part of the result."""

    samples: int
    """Completions of each prompt by each model."""
    temperature: float
    max_tokens: int
    seed: int
    batch_size: int
    """Completions per batch."""


def observe(
    model: LoadedModel,
    problems: Sequence[Problem],
    rewards: Sequence[Reward],
    how: How,
    *,
    system_prompt: str,
    on_batch: Callable[[int, bool], None],
) -> list[Observed]:
    """Return what the adapter and the base model do with each prompt.

    Batches hold prompts of similar length, whether trained on or not: in batches of their own, the two kinds would
    differ by the random numbers and the padding.

    Raises:
        RewardError, SamplerError: a reward or the sampler failed.
    """
    from ...client.learner.training.evaluate import prompt_texts

    prompts = prompt_texts(model.tokenizer, problems, system_prompt)
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), prompts[i]))
    size, found = max(1, how.batch_size // how.samples), dict[int, Observed]()
    for number, start in enumerate(range(0, len(order), size)):
        batch = order[start : start + size]
        rows = [problems[i].row(system_prompt) for i in batch]
        ids = model.tokenizer([prompts[i] for i in batch], add_special_tokens=False)["input_ids"]
        found |= zip(batch, _observed(model, rows, ids, rewards, how, seed=how.seed + number), strict=True)
        on_batch(2 * how.samples * len(batch), True)
    return [found[i] for i in range(len(problems))]


def _observed(
    model: LoadedModel,
    rows: list[dict[str, Any]],
    ids: list[list[int]],
    rewards: Sequence[Reward],
    how: How,
    *,
    seed: int,
) -> Iterator[Observed]:
    from ...client.learner.models.likelihood import likelihoods

    sampling = Sampling(max_tokens=how.max_tokens, temperature=how.temperature, seed=seed)
    sampler, adapted, count = model.trainer.sampler, model.trainer.adapted, how.samples
    own, theirs = (sampler.sample(ids, sampling, count=count, base=base) for base in (False, True))
    reward, base_reward = (_rewards(model, rows, groups, rewards) for groups in (own, theirs))
    pairs = [(prompt, one.tokens) for prompt, group in zip(ids, own, strict=True) for one in group]
    likely, base_likely = (likelihoods(adapted, pairs, base=base) for base in (False, True))
    for i in range(len(rows)):
        mine = slice(i * count, (i + 1) * count)
        yield Observed(
            rewards=reward[mine],
            base_rewards=base_reward[mine],
            completions=[each.completion for each in likely[mine]],
            base_completions=[each.completion for each in base_likely[mine]],
            prompt=likely[i * count].prompt,
            base_prompt=base_likely[i * count].prompt,
        )


def _rewards(
    model: LoadedModel, rows: list[dict[str, Any]], groups: list[list[Sampled]], rewards: Sequence[Reward]
) -> list[float]:
    """Return the weighted sum of the rewards of each completion, group after group."""
    from ...client.learner.models.chat_template import texts

    tokens = [one.tokens for group in groups for one in group]
    repeated = [row for row, group in zip(rows, groups, strict=True) for _ in group]
    payments = paid(rewards, repeated, texts(model.tokenizer, tokens), tokens)
    return [sum(reward.weight * (payment[reward.name] or 0.0) for reward in rewards) for payment in payments]
