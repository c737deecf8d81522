"""Partitioning of a dataset over clients. Every problem goes to exactly one of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...client.learner.data.problems import Problem
from ...common.errors import ConfigError
from ...common.seeds import derived_seed
from ...common.settings.run_config import RunConfig

MAX_DRAWS = 200


def partition(problems: Sequence[Problem], config: RunConfig) -> list[list[Problem]]:
    """Return the clients' shards, as `simulation.partition` says.

    - iid: shuffled and dealt.
    - dirichlet: each label's problems divided by a draw from Dirichlet(alpha) (Hsu et al. 2019, arXiv:1909.06335).
    - label: all problems of a label go to one client, labels dealt in turn.
    - size: shuffled, shard sizes drawn from Dirichlet(alpha).
    - difficulty: sorted by the number of steps, client 0 gets the easiest.

    A draw that leaves a client too little for one step is repeated.

    Raises:
        ConfigError: there are too few problems for the clients, or the label does not exist.
    """
    clients, least = config.simulation.clients, config.grpo.prompts_per_step
    if len(problems) < clients * least:
        raise ConfigError(
            f"{len(problems)} problems are too few for {clients} clients: each needs at least {least} for one step "
            "(batch size / num-generations). Use fewer clients or more problems."
        )
    rng = np.random.default_rng(derived_seed(config.federation.seed, "partition"))
    return [[problems[i] for i in part] for part in _parts(problems, config, rng)]


def _parts(problems: Sequence[Problem], config: RunConfig, rng: np.random.Generator) -> list[list[int]]:
    """Return the numbers of each client's problems."""
    settings, least = config.simulation, config.grpo.prompts_per_step
    clients, alpha = settings.clients, settings.partition_alpha
    match settings.partition:
        case "dirichlet":
            return _dirichlet(_labels(problems, settings.partition_label), alpha, clients, least, rng)
        case "size":
            return _sizes(len(problems), alpha, clients, least, rng)
        case "label":
            return _by_label(_labels(problems, settings.partition_label), clients, least)
        case "difficulty":
            steps = [int(label) for label in _labels(problems, "steps")]
            order = sorted(rng.permutation(len(problems)).tolist(), key=lambda i: steps[i])
            return [part.tolist() for part in np.array_split(order, clients)]
        case "iid":
            order = rng.permutation(len(problems)).tolist()
            return [order[k::clients] for k in range(clients)]
        case other:
            raise ConfigError(f"There is no way {other} to partition the problems (simulation.partition).")


def _labels(problems: Sequence[Problem], name: str) -> list[str]:
    missing = next((p for p in problems if name not in p.labels), None)
    if missing:
        known = ", ".join(sorted(missing.labels)) or "no labels"
        raise ConfigError(f"The problems have no label {name!r} (simulation.partition-label). They have: {known}.")
    return [problem.labels[name] for problem in problems]


def _by_label(labels: Sequence[str], clients: int, least: int) -> list[list[int]]:
    values = sorted(set(labels))
    parts = [[i for i, label in enumerate(labels) if values.index(label) % clients == k] for k in range(clients)]
    if min(map(len, parts)) < least:
        raise ConfigError(
            f"simulation.partition = label gives each value to one client, but there are {len(values)} values for "
            f"{clients} clients with at least {least} problems each. Use fewer clients, or another label."
        )
    return parts


def _dirichlet(
    labels: Sequence[str], alpha: float, clients: int, least: int, rng: np.random.Generator
) -> list[list[int]]:
    for _ in range(MAX_DRAWS):
        parts: list[list[int]] = [[] for _ in range(clients)]
        for label in sorted(set(labels)):
            members = rng.permutation([i for i, value in enumerate(labels) if value == label])
            cuts = np.cumsum(rng.dirichlet([alpha] * clients))[:-1] * len(members)
            for part, piece in zip(parts, np.split(members, cuts.round().astype(int)), strict=True):
                part += piece.tolist()
        if min(map(len, parts)) >= least:
            return [rng.permutation(part).tolist() for part in parts]
    raise _too_uneven(alpha, clients, least)


def _sizes(count: int, alpha: float, clients: int, least: int, rng: np.random.Generator) -> list[list[int]]:
    for _ in range(MAX_DRAWS):
        cuts = (np.cumsum(rng.dirichlet([alpha] * clients))[:-1] * count).round().astype(int)
        parts = np.split(rng.permutation(count), cuts)
        if min(map(len, parts)) >= least:
            return [part.tolist() for part in parts]
    raise _too_uneven(alpha, clients, least)


def _too_uneven(alpha: float, clients: int, least: int) -> ConfigError:
    return ConfigError(
        f"In {MAX_DRAWS} draws, simulation.partition-alpha = {alpha:g} never gave each of {clients} clients at least "
        f"{least} problems. Raise alpha, or use fewer clients."
    )
