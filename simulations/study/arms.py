"""The kinds of arms: what each changes in a scenario, at the same number of rollouts."""

from __future__ import annotations

from ...common.errors import ConfigError
from ...common.settings.run_config import RunConfig, Value

FEDERATED, CENTRAL, CENTRAL_BATCH, LOCAL, LOCAL_LONG = "federated", "central", "central-batch", "local", "local-long"
KINDS = (FEDERATED, CENTRAL, CENTRAL_BATCH, LOCAL, LOCAL_LONG)


def is_local(kind: str) -> bool:
    """Return whether each client trains its own policy."""
    return kind in (LOCAL, LOCAL_LONG)


def runs_of(kind: str, config: RunConfig) -> tuple[RunConfig, ...]:
    """Return the settings of the runs that one seed of an arm consists of: one, or one per client for local kinds.

    `federated`: the settings as they are. `central`: one client that has all problems and takes, one after another, the
    steps that the K clients of a round take in parallel. `central-batch`: one client, the federation's number of
    steps, K times as many completions in each. `local`: each client by itself on its own shard, as many steps as in the
    federation. `local-long`: K times as many. K is the number of clients in a round.

    Raises:
        ConfigError: the kind is not possible with these settings.
    """
    train, grpo = config.train, config.grpo
    if kind == FEDERATED:
        return (config,)
    if train.seconds_per_round:
        raise ConfigError(
            f"train.seconds-per-round is {train.seconds_per_round:g}, but rounds by time have no set number of "
            f"rollouts for an arm of kind {kind} to equal. Set it to 0."
        )
    clients = config.simulation.clients
    times = min(config.federation.clients_per_round or clients, clients)
    changes: dict[str, Value] = {"federation.clients-per-round": 0}
    if kind in (CENTRAL, LOCAL_LONG):
        changes["train.steps-per-round"] = train.steps_per_round * times
    if kind == CENTRAL_BATCH:
        changes["grpo.gradient-accumulation-steps"] = grpo.gradient_accumulation_steps * times
    if is_local(kind):
        return tuple(config.with_values({**changes, "simulation.only": k}) for k in range(clients))
    rewards = config.simulation.rewards.split(";")[0]
    return (config.with_values({**changes, "simulation.clients": 1, "simulation.rewards": rewards}),)


def rollouts(config: RunConfig) -> int:
    """Return the number of completions that the adapter of a run learns from."""
    taking_part = len(config.simulation.taking_part)
    cohort = min(config.federation.clients_per_round or taking_part, taking_part)
    return config.federation.rounds * config.prompts_per_round * config.grpo.num_generations * cohort
