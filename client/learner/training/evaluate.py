"""Answering held-out problems with an adapter, and counting correct answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from ....common.foreign import LABEL_CHARACTERS, printable
from ....common.messages.messages import Evaluation, Tally
from ....common.settings.run_config import RunConfig
from ..data.answers import style
from ..data.judge import judge
from ..data.problems import Problem
from ..models.chat_template import texts
from ..samplers import Sampled, Sampler, Sampling


@dataclass(frozen=True, slots=True)
class Answered:
    """One completion of one problem, with its verdict."""

    text: str
    strict: bool
    lenient: bool
    truncated: bool
    tokens: int


def answer_all(
    sampler: Sampler,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    config: RunConfig,
    *,
    system_prompt: str,
    temperature: float,
    seed: int,
    base: bool = False,
    on_batch: Callable[[int, int], None] = lambda number, batches: None,
) -> list[Answered]:
    """Return one completion per problem, in the order of the problems.

    Batches hold prompts of similar length, so that little is padding. The seed is set before every batch, so that two
    adapters that are compared draw the same random numbers.

    Args:
        temperature: 0 decodes greedily.
        base: answer with the base model, without the adapter.
        on_batch: called after each batch with its number and the number of batches.
    """
    prompts = prompt_texts(tokenizer, problems, system_prompt)
    order = sorted(range(len(problems)), key=lambda i: (len(prompts[i]), i))
    length = config.evaluation.max_completion_length or config.grpo.max_completion_length
    answers: dict[int, Answered] = {}
    batch_size = config.evaluation.batch_size
    for number, start in enumerate(range(0, len(order), batch_size)):
        batch = order[start : start + batch_size]
        ids = tokenizer([prompts[i] for i in batch], add_special_tokens=False)["input_ids"]
        sampling = Sampling(max_tokens=length, temperature=temperature, seed=seed + number)
        sampled = [first for first, *_ in sampler.sample(ids, sampling, base=base)]
        completed = texts(tokenizer, [s.tokens for s in sampled])
        for i, text, completion in zip(batch, completed, sampled, strict=True):
            answers[i] = _judge(problems[i], text, completion)
        on_batch(number + 1, math.ceil(len(order) / batch_size))
    return [answers[i] for i in range(len(problems))]


def prompt_texts(tokenizer: PreTrainedTokenizerBase, problems: Sequence[Problem], system_prompt: str) -> list[str]:
    """Return the problems as the model sees them: chat template, system prompt, and the opening of the answer."""
    chats = [problem.row(system_prompt)["prompt"] for problem in problems]
    return [str(tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)) for chat in chats]


def count(
    problems: Sequence[Problem],
    answers: Sequence[Answered],
    base: Sequence[Answered],
    columns: Sequence[str],
    last: Sequence[Answered] | None = None,
) -> Evaluation:
    """Return tallies over all problems and by class: by the labels in `columns`, and by answer style.

    A label is cut and escaped as every text for another party is (`printable`); those alike then are one class.

    Args:
        base: the base model's answers to the same problems.
        last: the answers of the adapter to compare with, if they are known.
    """
    total = Tally()
    classes: dict[str, Tally] = {}
    for problem, answer, before, then in zip(problems, answers, base, last or answers, strict=True):
        one = Tally(
            problems=1,
            correct=int(answer.strict),
            lenient=int(answer.lenient),
            truncated=int(answer.truncated),
            tokens=answer.tokens,
            gained=int(answer.strict and not before.strict),
            lost=int(before.strict and not answer.strict),
            compared=int(last is not None),
            better=int(answer.strict and not then.strict),
            worse=int(then.strict and not answer.strict),
        )
        total += one
        names = [f"{column}={problem.labels[column]}" for column in columns if column in problem.labels]
        for name in [*(printable(name, LABEL_CHARACTERS) for name in names), f"style={style(answer.text)}"]:
            classes[name] = classes.get(name, Tally()) + one
    return Evaluation.of(total, dict(sorted(classes.items())))


def _judge(problem: Problem, text: str, completion: Sampled) -> Answered:
    judgement = judge(text, problem.answer)
    return Answered(
        text=text,
        strict=judgement.strict,
        lenient=judgement.lenient,
        truncated=not completion.ended,
        tokens=len(completion.tokens),
    )
