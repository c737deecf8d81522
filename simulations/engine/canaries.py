"""Canaries: made-up problems that a coin puts into a client's shard or leaves out, for the audit of membership.

A canary is a word problem of the built-in world, of a split that nothing else trains on. The coins are fair and
independent of everything else, which the bound on epsilon needs (`common/analysis/one_run.py`). Canaries with wrong
answers were tried and given up: GRPO reinforces what is sampled, and a wrong answer seldom is (docs/membership.md).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ...client.learner.data.problems import Problem
from ...common.errors import ConfigError
from ...common.seeds import derived_seed
from ...common.settings.run_config import RunConfig
from ...common.storage.atomic import write_atomic
from ...common.storage.jsonl import as_line, read_lines
from ...server.run.layout import RunFolder
from ..builtin import world


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """One canary and its coin."""

    canary: int
    """Its number."""
    client: int
    """The client whose shard it is in, or would be."""
    included: bool
    problem: Problem


def make_canaries(config: RunConfig) -> list[Canary]:
    """Return the canaries of a run, dealt in turn to the clients that take part; they follow from the settings."""
    settings = config.simulation
    seed = derived_seed(config.federation.seed, "canaries", settings.canary_seed)
    problems, coins = _problems(settings.canaries, settings.dataset, seed), random.Random(derived_seed(seed, "coins"))
    clients = settings.taking_part
    return [
        Canary(canary=i, client=clients[i % len(clients)], included=coins.random() < 0.5, problem=problem)
        for i, problem in enumerate(problems)
    ]


def planted(shards: list[list[Problem]], canaries: Sequence[Canary]) -> list[list[Problem]]:
    """Return the shards with the canaries that are included."""
    mine = [[c.problem for c in canaries if c.included and c.client == k] for k in range(len(shards))]
    return [shard + own for shard, own in zip(shards, mine, strict=True)]


def record_canaries(folder: Path, canaries: Sequence[Canary]) -> None:
    """Write the canaries of a run to its folder, one a line."""
    if canaries:
        write_atomic(RunFolder(folder).canaries, b"".join(as_line(asdict(canary)) for canary in canaries))


def recorded_canaries(folder: Path) -> list[Canary]:
    """Read the canaries of a run; none if it had none.

    Raises:
        ConfigError: the file is damaged.
    """
    path = RunFolder(folder).canaries
    try:
        return [_canary(dict(line)) for line in read_lines(path)]
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{path} is damaged: {error!r}. It cannot be made again; audit another run.") from error


def _canary(line: dict[str, object]) -> Canary:
    problem = line.pop("problem")
    assert isinstance(problem, dict)
    return Canary(**line, problem=Problem(**problem))  # pyright: ignore[reportArgumentType]


def _problems(count: int, dataset: str, seed: int) -> list[Problem]:
    """Return `count` different problems of the world's split that nothing else trains or is tested on."""
    rng, found = random.Random(seed), dict[str, Problem]()
    while len(found) < count:
        for worked in world.problems("validation", 2 * count, rng.getrandbits(32)):
            problem = worked.problem()
            labels = problem.labels if dataset == "builtin" else {"steps": problem.labels["steps"]}
            if len(found) < count:
                found.setdefault(problem.question, Problem(problem.question, problem.answer, labels))
    return list(found.values())
