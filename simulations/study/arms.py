"""The kinds of arms: what each changes in a scenario, at the same number of rollouts."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ...common.errors import ConfigError
from ...common.settings.run_config import RunConfig, Value
from ..engine.faults import POISONERS

FEDERATED, CENTRAL, CENTRAL_BATCH, LOCAL, LOCAL_LONG = "federated", "central", "central-batch", "local", "local-long"
KINDS = (FEDERATED, CENTRAL, CENTRAL_BATCH, LOCAL, LOCAL_LONG)

ALONE: Mapping[str, Value] = MappingProxyType(
    {"federation.clients-per-round": 0, "aggregation.rule": "mean", "aggregation.hostile": 0}
)
"""Of every kind but `federated`: a round has one client; a rule against hostile ones would wait for more updates."""
ONE_CLIENT: Mapping[str, Value] = MappingProxyType(
    {"simulation.clients": 1, "simulation.ranks": "0", "simulation.faults": ""}
)
"""Of central kinds: the adapter has the federation's rank, not the first client's, and no client is faulty."""
CHANGED: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        FEDERATED: frozenset(),
        CENTRAL: frozenset({*ALONE, *ONE_CLIENT, "simulation.rewards", "train.steps-per-round"}),
        CENTRAL_BATCH: frozenset({*ALONE, *ONE_CLIENT, "simulation.rewards", "grpo.gradient-accumulation-steps"}),
        LOCAL: frozenset({*ALONE, "simulation.only", "simulation.faults"}),
        LOCAL_LONG: frozenset({*ALONE, "simulation.only", "simulation.faults", "train.steps-per-round"}),
    }
)
"""The settings in which a run of each kind may differ from the federation's; all others are equal."""


def is_local(kind: str) -> bool:
    """Return whether each client trains its own policy."""
    return kind in (LOCAL, LOCAL_LONG)


def runs_of(kind: str, config: RunConfig) -> tuple[RunConfig, ...]:
    """Return the settings of the runs that one seed of an arm consists of: one, or one per client for local kinds.

    `federated`: the settings as they are. `central`: one client that has all problems and takes, one after another, the
    steps that the K clients of a round take in parallel. `central-batch`: one client, the federation's number of
    steps, K times as many completions in each. `local`: each client by itself on its own shard, as many steps as in the
    federation. `local-long`: K times as many. K is the number of clients in a round.

    Only what a kind is about changes, and what a lone client cannot have: `CHANGED` lists it.

    Raises:
        ConfigError: the kind is not possible with these settings.
    """
    if kind == FEDERATED:
        return (config,)
    if config.train.min_signal:
        raise ConfigError(
            f"train.min-signal is {config.train.min_signal:g}, but rounds that end early have no set number of "
            f"rollouts for an arm of kind {kind} to equal. Set it to 0."
        )
    if config.train.seconds_per_round:
        raise ConfigError(
            f"train.seconds-per-round is {config.train.seconds_per_round:g}, but rounds by time have no set number of "
            f"rollouts for an arm of kind {kind} to equal. Set it to 0."
        )
    changes = {**_longer(kind, config), **ALONE}
    if is_local(kind):
        changes["simulation.faults"] = _without_poisoners(config)
        return tuple(config.with_values({**changes, "simulation.only": k}) for k in range(config.simulation.clients))
    return (config.with_values({**changes, **ONE_CLIENT, "simulation.rewards": _one_reward_set(kind, config)}),)


def _longer(kind: str, config: RunConfig) -> dict[str, Value]:
    """Return the settings that give one client the rollouts of the K clients of a round."""
    clients = config.simulation.clients
    times = min(config.federation.clients_per_round or clients, clients)
    if kind in (CENTRAL, LOCAL_LONG):
        return {"train.steps-per-round": config.train.steps_per_round * times}
    if kind == CENTRAL_BATCH:
        return {"grpo.gradient-accumulation-steps": config.grpo.gradient_accumulation_steps * times}
    return {}


def _without_poisoners(config: RunConfig) -> str:
    """Return the faults that a client has by itself: rewards without signal, slowness. None poisons its own policy."""
    kept = {k: fault for k, fault in config.simulation.fault_of.items() if fault not in POISONERS}
    return ";".join(f"{k}={fault}" for k, fault in kept.items())


def _one_reward_set(kind: str, config: RunConfig) -> str:
    sets = list(dict.fromkeys(config.simulation.rewards.split(";")))
    if len(sets) > 1:
        raise ConfigError(
            f"simulation.rewards names {len(sets)} different sets, but an arm of kind {kind} has one client with the "
            "problems of all, and would reward them by one set. Give all clients the same set, or leave the arm out."
        )
    return sets[0]


def rollouts(config: RunConfig) -> int:
    """Return the number of completions that the adapter of a run learns from."""
    taking_part = len(config.simulation.taking_part)
    cohort = min(config.federation.clients_per_round or taking_part, taking_part)
    return config.federation.rounds * config.prompts_per_round * config.grpo.num_generations * cohort
