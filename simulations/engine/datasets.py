"""Data of simulated clients: the built-in world, or GSM8K."""

from __future__ import annotations

import random
import re
from pathlib import Path

from ...client.learner.data.problems import Problem, read_jsonl
from ...common.errors import ConfigError, DataError
from ...common.seeds import derived_seed
from ...common.settings.run_config import RunConfig
from ..builtin import world

HUB_NAME = "openai/gsm8k"
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


def gsm8k_problem(row: dict[str, str], where: str) -> Problem:
    """Return a GSM8K row as a problem: the reference is the text after `####`; `steps` counts its calculations.

    The reference is never read from the last `<<...>>`, which differs from it in about five percent of the problems.
    """
    working, mark, answer = row["answer"].rpartition("####")
    if not mark or not answer.strip():
        raise DataError(f"{where} has an answer without '#### number'.")
    steps = len(STEP.findall(working)) or len(working.strip().splitlines()) or 1
    return Problem(row["question"], answer.strip().replace(",", ""), {"steps": str(steps)})


def _gsm8k_rows(split: str, folder: str) -> list[tuple[str, dict[str, str]]]:
    if folder:
        path = Path(folder).expanduser() / f"{split}.jsonl"
        if not path.is_file():
            raise ConfigError(
                f"There is no {path}. --data (simulation.data) must be a folder with train.jsonl and test.jsonl."
            )
        rows = read_jsonl(path, ("question", "answer"))
        return [(f"{path}, problem {number}", row) for number, row in enumerate(rows, start=1)]
    from datasets import load_dataset  # heavy, and only this path needs it

    try:
        loaded = load_dataset(HUB_NAME, "main", split=split)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"Cannot load {HUB_NAME} from the Hub ({type(error).__name__}). Without a network, give a folder with "
            "train.jsonl and test.jsonl: --data DIR."
        ) from error
    return [(f"{HUB_NAME} {split} {i}", dict(row)) for i, row in enumerate(loaded)]


def _take(problems: list[Problem], count: int, seed: int) -> list[Problem]:
    if not count or count >= len(problems):
        return problems
    indices = sorted(random.Random(seed).sample(range(len(problems)), count))
    return [problems[i] for i in indices]
