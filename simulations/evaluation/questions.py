"""An evaluation set: held-out problems of a run, of GSM8K or of any file, with system prompt and rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...client.learner.data.problems import Problem
from ...client.learner.data.system_prompts import system_prompt
from ...client.learner.data.tables import fingerprint, read_table
from ...client.learner.rewards import Reward, load_rewards, try_rewards
from ...client.organisation.columns import check_columns
from ...client.organisation.settings import Data
from ...common.errors import ConfigError
from ...common.settings.run_config import RunConfig
from ..engine.datasets import load_problems
from .target import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The command line's options for the questions."""

    file: str = ""
    """A .jsonl, .parquet or .csv file, or hub:NAME:SPLIT; empty uses the dataset of the settings."""
    question: str = "question"
    answer: str = "answer"
    answer_after: str = ""
    classes: tuple[str, ...] = ()
    system: str = ""
    """none, xml, think, or a text file; empty uses the run's."""
    rewards: str = ""
    limit: int = 0
    """0 uses as many as the settings say, and all of a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """An evaluation set: problems, prompt, rewards."""

    source: str
    problems: list[Problem]
    classes: tuple[str, ...]
    system_prompt: str
    rewards: tuple[Reward, ...]
    one_set: bool
    """Whether the rewards are those of one client, so that their weighted sum is meaningful."""

    @property
    def sha256(self) -> str:
        """Hash of the problems, in order."""
        return fingerprint(self.problems)

    def row(self, index: int) -> dict[str, Any]:
        """Return a problem as a row for rewards and chat template."""
        return self.problems[index].row(self.system_prompt)


def gather(target: Target, asked: Asked) -> Questions:
    """Read problems, system prompt and rewards, so that errors in them are found before a model is loaded.

    Raises:
        ConfigError, DataError, RewardError: something is missing or wrong; names it and its place.
    """
    config = target.config
    source, problems, columns = _problems(config, asked)
    unknown = [name for name in asked.classes if not any(name in problem.labels for problem in problems)]
    if unknown:
        known = sorted({name for problem in problems for name in problem.labels})
        columns_text = ", ".join(known) or "none"
        raise ConfigError(f"--classes names {unknown[0]!r}, but the problems only have the columns: {columns_text}.")
    rewards, one_set = _rewards(target, asked.rewards)
    questions = Questions(
        source=source,
        problems=problems,
        classes=asked.classes or columns,
        system_prompt=system_prompt(asked.system or config.simulation.system_prompt),
        rewards=rewards,
        one_set=one_set,
    )
    try_rewards(rewards, questions.row(0))
    return questions


def _problems(config: RunConfig, asked: Asked) -> tuple[str, list[Problem], tuple[str, ...]]:
    """Return (their source, the problems, the columns to split by)."""
    if not asked.file:
        if asked.limit:
            config = config.with_values({"evaluation.problems": asked.limit})
        source = config.simulation.data or config.simulation.dataset
        return source, load_problems(config)[1], config.evaluation.class_columns
    check_columns("--classes", asked.classes)
    data = Data(question=asked.question, answer=asked.answer, answer_after=asked.answer_after, labels=asked.classes)
    source = asked.file if asked.file.startswith("hub:") else str(Path(asked.file).expanduser().absolute())
    problems = [problem for _, problem in read_table(source, data)]
    return asked.file, problems[: asked.limit or None], ()


def _rewards(target: Target, line: str) -> tuple[tuple[Reward, ...], bool]:
    """Return (the rewards, whether they are one set): those of the option, else of all the run's clients, else
    correctness."""
    sets = [line] if line else target.config.simulation.rewards.split(";") if target.of_run else ["correctness"]
    rewards: dict[str, Reward] = {}
    for reward in (reward for one in dict.fromkeys(sets) for reward in load_rewards(one)):
        rewards.setdefault(reward.name, reward)
    return tuple(rewards.values()), len(set(sets)) == 1


def paid(
    rewards: Sequence[Reward], rows: Sequence[dict[str, Any]], texts: Sequence[str], tokens: Sequence[list[int]]
) -> list[dict[str, float | None]]:
    """Return the value of each reward for each completion.

    Raises:
        RewardError: a reward function failed.
    """
    columns = {key: [row[key] for row in rows] for key in rows[0] if key != "prompt"}
    chats = [[{"role": "assistant", "content": text}] for text in texts]
    by_name = {
        reward.name: reward(
            prompts=[row["prompt"] for row in rows],
            completions=chats,
            completion_ids=list(tokens),
            **columns,
            trainer_state=None,
            log_extra=lambda *_: None,
            log_metric=lambda *_: None,
        )
        for reward in rewards
    }
    return [{name: values[i] for name, values in by_name.items()} for i in range(len(texts))]
