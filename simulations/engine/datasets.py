"""Data of simulated clients: the built-in world, word problems in plain English, or GSM8K."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...client.learner.data.cells import text_of
from ...client.learner.data.problems import Problem
from ...client.learner.data.table_files import Row, read_rows
from ...client.learner.data.tables import split_reference
from ...common.cli.options import say
from ...common.errors import ConfigError
from ...common.seeds import derived_seed
from ...common.settings.run_config import RunConfig
from ..builtin import world
from ..words import world as words

HUB_NAME = "openai/gsm8k"
GSM8K_MARK = "####"
GENERATED = {"builtin": world.problems, "words": words.problems}
"""Worlds that make problems: (split, number, seed, most steps) -> worked problems."""
GENERATED_PROBLEMS = 1600
FORMS = {
    "hash": "{}\n#### {}",
    "xml": "<reasoning>\n{}\n</reasoning>\n<answer>\n{}\n</answer>",
    "think": "<think>{}</think>\n<answer>{}</answer>",
}
"""What a system prompt asks for: working, then answer."""
TEST_SEED = 1
"""Held-out problems are the same in every run, so that runs can be compared."""
STEP = re.compile(r"<<.*?>>")


def load_problems(config: RunConfig) -> tuple[list[Problem], list[Problem]]:
    """Return (training problems, held-out problems) of the scenario's dataset.

    Raises:
        ConfigError: the files are missing, or the Hub cannot be reached.
        DataError: a line is not a problem; names file and line.
    """
    settings, seed = config.simulation, config.federation.seed
    if settings.dataset in GENERATED:
        if settings.data:
            raise ConfigError(
                f"simulation.data (--data) is {settings.data}, but this scenario generates its problems and would "
                "not read it. Use a scenario with data, as in: fedgrpo simulate gsm8k --data DIR."
            )
        generate, most = GENERATED[settings.dataset], settings.most_steps
        train = generate("train", settings.problems or GENERATED_PROBLEMS, seed, most)
        test = generate("test", config.evaluation.problems, TEST_SEED, most)
        return [p.problem() for p in train], [p.problem() for p in test]
    train, test = (_short(_gsm8k(split, settings.data), settings.most_steps) for split in ("train", "test"))
    return _take(train, settings.problems, derived_seed(seed, "subset")), _take(
        test, config.evaluation.problems, TEST_SEED
    )


def demonstrations(config: RunConfig, count: int) -> list[tuple[str, str]]:
    """Return (question, completion) of training problems worked out in the form that the system prompt asks for.

    Raises:
        ConfigError, DataError: as of `load_problems`; or the form is none that a demonstration can have.
    """
    settings, seed = config.simulation, derived_seed(config.federation.seed, "start")
    if settings.system_prompt not in FORMS:
        raise ConfigError(
            f"simulation.start-steps is {settings.start_steps}, but simulation.system-prompt is "
            f"{settings.system_prompt}, which asks for no form that worked-out problems could show. Set it to one of "
            f"{', '.join(FORMS)}, or start-steps to 0 with a model that has been taught already (fedgrpo sft)."
        )
    form = FORMS[settings.system_prompt]
    if settings.dataset in GENERATED:
        shown = GENERATED[settings.dataset]("train", count, seed, settings.most_steps)
        return [(each.question, form.format(each.working, each.answer)) for each in shown]
    rows = [(gsm8k_problem(row, where), row, where) for where, row in _gsm8k_rows("train", settings.data)]
    kept = [each for each in rows if _is_short(each[0], settings.most_steps)]
    chosen = random.Random(seed).sample(kept, min(count, len(kept)))
    return [(p.question, form.format(_working(row, where), p.answer)) for p, row, where in chosen]


def _working(row: Mapping[str, Any], where: str) -> str:
    """Return GSM8K's solution in words and equations, without the marks of its calculator."""
    return STEP.sub("", split_reference(where, text_of(where, row, "answer"), GSM8K_MARK)[0]).strip()


def gsm8k_problem(row: Mapping[str, Any], where: str) -> Problem:
    """Return a GSM8K row as a problem: the reference is what follows `####`; `steps` counts its calculations.

    The reference is never read from the last `<<...>>`, which differs from it in about five percent of the problems.
    """
    working, reference = split_reference(where, text_of(where, row, "answer"), GSM8K_MARK)
    steps = len(STEP.findall(working)) or len(working.strip().splitlines()) or 1
    return Problem(text_of(where, row, "question"), reference.replace(",", ""), {"steps": str(steps)})


def _gsm8k(split: str, folder: str) -> list[Problem]:
    return [gsm8k_problem(row, where) for where, row in _gsm8k_rows(split, folder)]


def _short(problems: list[Problem], most_steps: int) -> list[Problem]:
    kept = [problem for problem in problems if _is_short(problem, most_steps)]
    if not kept:
        raise ConfigError(f"simulation.most-steps is {most_steps}, and not one problem is that short. Raise it.")
    return kept


def _is_short(problem: Problem, most_steps: int) -> bool:
    return not most_steps or int(problem.labels["steps"]) <= most_steps


def _gsm8k_rows(split: str, folder: str) -> Iterable[Row]:
    """Yield GSM8K's rows as an organisation's data would be read."""
    if not folder:
        say(f"loading {HUB_NAME} ({split}) from the Hub or its cache")
        try:
            return list(read_rows(f"hub:{HUB_NAME}:main:{split}"))
        except ConfigError as error:
            raise ConfigError(
                f"{error} Without a network, give a folder with train.jsonl and test.jsonl: --data DIR."
            ) from error
    path = Path(folder).expanduser() / f"{split}.jsonl"
    if not path.is_file():
        raise ConfigError(
            f"There is no {path}. --data (simulation.data) must be a folder with train.jsonl and test.jsonl."
        )
    return read_rows(str(path))


def _take(problems: list[Problem], count: int, seed: int) -> list[Problem]:
    if not count or count >= len(problems):
        return problems
    indices = sorted(random.Random(seed).sample(range(len(problems)), count))
    return [problems[i] for i in indices]
