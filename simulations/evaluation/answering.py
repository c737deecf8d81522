"""Answering of every problem in batches, with the base model and with the adapter. Saved answers are reused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...client.learner.data.judge import judge
from ...client.learner.data.problems import Problem
from ...client.learner.samplers import Sampled, Sampling
from ...common.bounds import at_least, between
from ...common.errors import ConfigError
from ...common.seeds import derived_seed
from ...common.settings.run_config import RunConfig
from .answer import ADAPTER, BASE, Answer
from .questions import Questions, paid

if TYPE_CHECKING:
    from ...client.learner.training.local_learner import LoadedModel
    from .record import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """How completions are drawn, which is part of the result."""

    samples: int
    """Completions of each problem at `temperature`."""
    temperature: float
    greedy: bool
    """Whether each problem is also answered greedily."""
    max_tokens: int
    seed: int
    batch_size: int
    """Completions per batch. The random numbers of a completion depend on its batch."""
    sampler: str
    dtype: str
    """Type of the base model's weights: `model.dtype`."""
    quantization: str
    """Quantization of the base model: `backend.quantization`."""


@dataclass(frozen=True, slots=True)
class DecodingPass:
    """One pass over all problems, with one model and one decoding."""

    decoding: str
    model: str
    count: int
    temperature: float


def protocol(config: RunConfig, samples: int, temperature: float | None, greedy: bool, seed: int | None) -> Protocol:
    """Return the settings of an evaluation: the command line's, else the run's.

    Raises:
        ConfigError: the number of samples or the temperature is out of bounds.
    """
    at_least("samples", samples, 0, "0 answers greedily alone")
    if temperature is not None:
        between("temperature", temperature, 0.0, 10.0, "0 is greedy, and 10 is close to random tokens")
    return Protocol(
        samples=samples,
        temperature=config.evaluation.temperature if temperature is None else temperature,
        greedy=greedy,
        max_tokens=config.evaluation.max_completion_length or config.grpo.max_completion_length,
        seed=derived_seed(config.federation.seed if seed is None else seed, "compare"),
        batch_size=config.evaluation.batch_size,
        sampler=config.backend.sampler,
        dtype=config.model.dtype,
        quantization=config.backend.quantization,
    )


def checked_counts(name: str, counts: Sequence[int], samples: int) -> tuple[int, ...]:
    """Return the k of pass@k without repetitions.

    Raises:
        ConfigError: one is not from 1 to the number of samples.
    """
    wrong = [k for k in counts if not 1 <= k <= max(1, samples)]
    if wrong:
        raise ConfigError(
            f"{name} has {wrong[0]}, but its numbers must be from 1 to --samples, which is {samples}: of k completions "
            "at most pass@k is known."
        )
    return tuple(dict.fromkeys(counts))


def decoding_passes(how: Protocol, with_adapter: bool) -> list[DecodingPass]:
    """Return all passes of an evaluation."""
    greedy = [("greedy", 1, 0.0)] if how.greedy else []
    decodings = [*greedy, *([("sampled", how.samples, how.temperature)] if how.samples else [])]
    models = [BASE, ADAPTER] if with_adapter else [BASE]
    return [DecodingPass(name, model, count, t) for name, count, t in decodings for model in models]


def answer_all(
    model: LoadedModel,
    questions: Questions,
    how: Protocol,
    plan: list[DecodingPass],
    *,
    prompts: list[str],
    record: Record,
    on_batch: Callable[[int, bool], None],
) -> list[Answer]:
    """Return every answer of the plan; saved ones are read from the record.

    Args:
        prompts: the problems as the model sees them.
        on_batch: called after each batch with its completions and whether they were sampled in this process.

    Raises:
        RewardError, SamplerError: a reward or the sampler failed; earlier answers are in the record.
    """
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    answers: list[Answer] = []
    for decoding_pass in plan:
        size = max(1, how.batch_size // decoding_pass.count)
        for number, start in enumerate(range(0, len(order), size)):
            batch = order[start : start + size]
            known = record.answers(decoding_pass.decoding, decoding_pass.model, batch, decoding_pass.count)
            if known is None:
                known = list(
                    _answered(model, questions, how, decoding_pass, batch, seed=how.seed + number, prompts=prompts)
                )
                record.add(known, questions.problems)
                on_batch(len(known), True)
            else:
                on_batch(len(known), False)
            answers += known
    return answers


def _answered(
    model: LoadedModel,
    questions: Questions,
    how: Protocol,
    decoding_pass: DecodingPass,
    batch: list[int],
    *,
    seed: int,
    prompts: list[str],
) -> Iterator[Answer]:
    from ...client.learner.models.chat_template import texts

    sampling = Sampling(max_tokens=how.max_tokens, temperature=decoding_pass.temperature, seed=seed)
    ids = model.tokenizer([prompts[i] for i in batch], add_special_tokens=False)["input_ids"]
    groups = model.trainer.sampler.sample(ids, sampling, count=decoding_pass.count, base=decoding_pass.model == BASE)
    whole = [(i, j, one) for i, group in zip(batch, groups, strict=True) for j, one in enumerate(group)]
    tokens = [one.tokens for *_, one in whole]
    completed = texts(model.tokenizer, tokens)
    rewards = paid(questions.rewards, [questions.row(i) for i, *_ in whole], completed, tokens)
    for (i, j, one), text, payment in zip(whole, completed, rewards, strict=True):
        yield judged(questions.problems[i], decoding_pass, (i, j), text, sampled=one, rewards=payment)


def judged(
    problem: Problem,
    decoding_pass: DecodingPass,
    place: tuple[int, int],
    text: str,
    *,
    sampled: Sampled,
    rewards: dict[str, float | None],
) -> Answer:
    """Return the answer with its verdict for a completion.

    Args:
        place: (problem, sample).
    """
    judgement = judge(text, problem.answer)
    return Answer(
        decoding=decoding_pass.decoding,
        model=decoding_pass.model,
        problem=place[0],
        sample=place[1],
        completion=text,
        strict_answer=judgement.strict_answer,
        strict=judgement.strict,
        lenient=judgement.lenient,
        style=judgement.style,
        truncated=not sampled.ended,
        tokens=len(sampled.tokens),
        rewards=rewards,
    )


def fingerprint(
    questions: Questions, how: Protocol, prompts: Sequence[str], base_sha256: str, adapter_sha256: str
) -> dict[str, object]:
    """Return everything that answers depend on: evaluations with the same fingerprint may share a file.

    Args:
        prompts: the problems as the model sees them; a chat template may render them differently at another time.
    """
    sources = sorted({reward.source for reward in questions.rewards} - {"built-in"})
    digest = hashlib.sha256("".join(Path(source).read_text(encoding="utf-8") for source in sources).encode())
    return {
        "base_model_sha256": base_sha256,
        "adapter_sha256": adapter_sha256,
        "problems_sha256": questions.sha256,
        "prompts_sha256": hashlib.sha256("\0".join(prompts).encode()).hexdigest(),
        "system_prompt": questions.system_prompt,
        "rewards": {reward.name: reward.weight for reward in questions.rewards},
        "reward_files_sha256": digest.hexdigest() if sources else "",
        **asdict(how),
    }
