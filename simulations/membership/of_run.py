"""The prompts of a simulated run: what its clients read until a round, and prompts of the same kind that none had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...client.learner.data.problems import Problem, in_blocks
from ...client.learner.data.shard_reader import ShardReader
from ...client.learner.data.signal_record import FOLDER, SignalRecord
from ...client.learner.data.system_prompts import SYSTEM_PROMPTS
from ...client.learner.privacy.spent import FILE
from ...common.errors import ConfigError
from ...common.seeds import derived_seed
from ...common.settings.run_config import RunConfig
from ...server.run.journal import Committed
from ...server.run.locate import Located
from ...server.run.reader import Run
from ..builtin import world
from ..engine.canaries import Canary, recorded_canaries
from ..engine.datasets import load_problems
from ..engine.runner import inputs_sha256
from ..engine.simulated_clients import client_name, client_rewards, divide
from .subjects import Coin, Subjects, chosen, label_key, quotas

if TYPE_CHECKING:
    from ...client.learner.training.local_learner import LoadedModel

DRAWS = 50
DRAWN_AT_ONCE = 2000


@dataclass(frozen=True, slots=True)
class Reading:
    """What one client had read of its shard by some round."""

    read: list[Problem]
    unread: list[Problem]
    position: int
    """Prompts trained on, repetitions included."""


def check_run(located: Located) -> Run:
    """Return the run of a located adapter, if its prompts can be known here.

    Raises:
        ConfigError: it is the server's folder of a real federation, or its data or rewards have changed since.
    """
    run = located.run
    if run is None:
        raise ConfigError(
            f"{located.folder} is an adapter without its run, so the prompts it was trained on are not known here. "
            "Give the run folder of a simulation, or the organisation's file: --organisation clinic.toml."
        )
    if not run.files.inputs.is_file():
        raise ConfigError(
            f"{run.folder} is not a simulation: its server never had the prompts. Each organisation audits the adapter "
            "with its own: --organisation clinic.toml."
        )
    if run.files.inputs.read_text() != inputs_sha256(run.config):
        raise ConfigError(
            f"The data or a reward file has changed since {run.folder} began, so it is not known any more which "
            "prompts it was trained on. Restore them, or audit a new run."
        )
    return run


def subjects_of_run(
    run: Run, round_number: int, model: LoadedModel, *, client: int | None, limit: int, seed: int
) -> Subjects:
    """Return the prompts that clients had trained on by a round, and others of the same kind.

    Args:
        client: the one client that is audited; None audits all together.

    Raises:
        ConfigError: there is no such client, or too few prompts of one kind.
    """
    config, canaries = run.config, recorded_canaries(run.folder)
    clients = config.simulation.taking_part if client is None else (client,)
    if not set(clients) <= set(config.simulation.taking_part):
        raise ConfigError(f"--client is {client}, but the clients of this run are {config.simulation.taking_part}.")
    readings = {k: reading(model, run, k, round_number) for k in clients}
    planted = {canary.problem.question for canary in canaries}
    read = [p for each in readings.values() for p in each.read if p.question not in planted]
    unread = [p for each in readings.values() for p in each.unread if p.question not in planted]
    others, others_are = other_prompts(config, read, unread, count=limit, seed=seed)
    members, others = chosen(read, others, limit=limit, seed=seed)
    trained = sum(len(each.read) for each in readings.values())
    return Subjects(
        members=members,
        others=others,
        others_are=others_are,
        coins=_coins(canaries, clients),
        reads=sum(each.position for each in readings.values()) / trained if trained else 0.0,
        system_prompt=SYSTEM_PROMPTS[config.simulation.system_prompt],
        rewards=tuple({r.name: r for k in clients for r in client_rewards(config)[k]}.values()),
        budgets=tuple(run.files.client(client_name(k)) / FILE for k in clients),
        notes=_notes(canaries, clients, readings),
    )


def reading(model: LoadedModel, run: Run, client: int, round_number: int) -> Reading:
    """Return what a client had read by a round, as the learner reads its shard.

    Raises:
        ConfigError: it drew its prompts by their signal, and the record of that is lost.
    """
    config, name = run.config, client_name(client)
    positions = next((c.positions for c in run.journal.of(Committed) if c.round == round_number), {})
    shard, block = divide(config)[0][client], max(1, config.train.block_size)
    lengths = model.prompt_lengths(shard, SYSTEM_PROMPTS[config.simulation.system_prompt])
    usable = in_blocks(shard, lengths, block, config.grpo.max_prompt_length)
    reader = ShardReader(config, usable, name, block, SignalRecord(run.files.client(name) / FOLDER))
    position, federation = positions.get(name, 0), run.journal.created.federation if run.journal.created else ""
    read = reader.read_until(federation, position, round_number)
    first, rest = ([p for i, p in enumerate(usable) if (i in read) is inside] for inside in (True, False))
    return Reading(first, rest, position)


def other_prompts(
    config: RunConfig, read: Sequence[Problem], unread: Sequence[Problem], *, count: int, seed: int
) -> tuple[list[Problem], str]:
    """Return (prompts that nobody trained on, where they are from).

    The built-in world makes new ones, with the labels of the members in their proportions. Of other data there are
    those that no client has read yet, and those that the run left out; if there are none, the held-out ones.
    """
    shards, held_out = divide(config)
    taken = {problem.question for shard in shards for problem in shard}
    if config.simulation.dataset == "builtin":
        return _new_problems(read, count, seed, taken), "new problems of the built-in world"
    everything = load_problems(config.with_values({"simulation.problems": 0}))[0]
    spare = [*unread, *(problem for problem in everything if problem.question not in taken)]
    return (spare, "problems that were not read") if spare else (held_out, "held-out problems")


def _new_problems(like: Sequence[Problem], count: int, seed: int, taken: set[str]) -> list[Problem]:
    wanted, found = quotas(like, count), dict[str, Problem]()
    for draw in range(DRAWS):
        for worked in world.problems("train", DRAWN_AT_ONCE, derived_seed(seed, "membership", draw)):
            problem = worked.problem()
            if wanted[label_key(problem)] > 0 and problem.question not in taken | found.keys():
                wanted[label_key(problem)] -= 1
                found[problem.question] = problem
        if not any(number > 0 for number in wanted.values()):
            break
    return list(found.values())


def _coins(canaries: Sequence[Canary], clients: Sequence[int]) -> list[Coin]:
    return [Coin(canary.problem, canary.included) for canary in canaries if canary.client in clients]


def _notes(canaries: Sequence[Canary], clients: Sequence[int], readings: dict[int, Reading]) -> list[str]:
    read = {problem.question for each in readings.values() for problem in each.read}
    inside = [canary for canary in canaries if canary.included and canary.client in clients]
    unread = sum(canary.problem.question not in read for canary in inside)
    if not unread:
        return []
    return [
        f"{unread} of the {len(inside)} canaries that were included had not been read by this round: more rounds, or "
        "fewer prompts, would make the bound on epsilon sharper."
    ]
