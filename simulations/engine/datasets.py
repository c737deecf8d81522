"""Data of simulated clients: the built-in world, or GSM8K."""

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

HUB_NAME = "openai/gsm8k"
GSM8K_MARK = "####"
BUILTIN_PROBLEMS = 1600
TEST_SEED = 1
"""Held-out problems are the same in every run, so that runs can be compared."""
STEP = re.compile(r"<<.*?>>")


def load_problems(config: RunConfig) -> tuple[list[Problem], list[Problem]]:
    """Return (training problems, held-out problems) of the scenario's dataset.

    Raises:
        ConfigError: the files are missing, or the Hub cannot be reached.
        DataError: a line is not a problem; names file and line.
    """
    settings = config.simulation
    if settings.dataset == "builtin":
        if settings.data:
            raise ConfigError(
                f"simulation.data (--data) is {settings.data}, but this scenario generates its problems and would "
                "not read it. Use a scenario with data, as in: fedgrpo simulate gsm8k --data DIR."
            )
        count = settings.problems or BUILTIN_PROBLEMS
        train = world.problems("train", count, config.federation.seed)
        test = world.problems("test", config.evaluation.problems, TEST_SEED)
        return [p.problem() for p in train], [p.problem() for p in test]
    train, test = (
        [gsm8k_problem(row, where) for where, row in _gsm8k_rows(split, settings.data)] for split in ("train", "test")
    )
    seed = config.federation.seed
    return _take(train, settings.problems, derived_seed(seed, "subset")), _take(
        test, config.evaluation.problems, TEST_SEED
    )


def gsm8k_problem(row: Mapping[str, Any], where: str) -> Problem:
    """Return a GSM8K row as a problem: the reference is what follows `####`; `steps` counts its calculations.

    The reference is never read from the last `<<...>>`, which differs from it in about five percent of the problems.
    """
    working, reference = split_reference(where, text_of(where, row, "answer"), GSM8K_MARK)
    steps = len(STEP.findall(working)) or len(working.strip().splitlines()) or 1
    return Problem(text_of(where, row, "question"), reference.replace(",", ""), {"steps": str(steps)})


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
