"""Simulated clients: each has its shard of the scenario's dataset, and all in a process share one loaded model."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ...client.learner import Learner
from ...client.learner.data.problems import Problem
from ...client.learner.data.signal_record import FOLDER, SignalRecord
from ...client.learner.data.system_prompts import SYSTEM_PROMPTS
from ...client.learner.masking.summing import SummingLearner
from ...client.learner.models.load import load_model
from ...client.learner.models.model_files import model_folder
from ...client.learner.models.precision import resolved_dtype
from ...client.learner.privacy.spent import FILE, Spent
from ...client.learner.rewards import Reward, load_rewards
from ...client.learner.tools import ToolBox, load_tools
from ...client.learner.training.error_feedback import CompressingLearner, Residuals
from ...common.errors import ConfigError
from ...common.foreign import safe_logger
from ...common.settings.run_config import RunConfig, Value
from .canaries import make_canaries, planted
from .datasets import load_problems
from .dropouts import DroppingLearner
from .faults import FaultyLearner, spoiled
from .federation_keys import own_folder, simulated_masker
from .partition import partition

if TYPE_CHECKING:
    from ...client.learner.training.local_learner import LoadedModel

LOGGER = safe_logger("fedgrpo.simulation")
BUILTIN_POLICY = Path(__file__).parent.parent / "builtin" / "policy"
SPLIT_POLICY = Path(__file__).parent.parent / "builtin" / "policy_split"
BUILTIN_POLICIES = {"builtin": BUILTIN_POLICY, "builtin-split": SPLIT_POLICY}
"""Included in the package; `builtin/demonstrations.py` describes the training of each."""


def simulated_learner(node_config: dict[str, Value], config: RunConfig) -> Learner:
    """Return the learner of the client with a node's `partition-id` (entry point of the relay)."""
    from ...client.learner.training.kept_state import KeptState
    from ...client.learner.training.local_learner import ClientData, LocalLearner
    from .progress import Reporter

    number, nodes = node_config["partition-id"], node_config.get("num-partitions")
    clients = config.simulation.clients
    if nodes != clients or not isinstance(number, int) or not 0 <= number < clients:
        raise ConfigError(
            f"This is simulated node {number} of {nodes}, but simulation.clients is {clients}. With flwr run, give "
            f"--federation-config 'num-supernodes={clients} client-resources-num-cpus=1'."
        )
    if number not in config.simulation.taking_part:
        raise ConfigError(f"simulation.only is {config.simulation.only}: client {number} takes no part in this run.")
    name, fault = client_name(number), config.simulation.fault_of.get(number, "")
    shards, held_out = divide(config)
    held_out_indices = answered_by(number, config, len(held_out))
    data = ClientData(
        organisation=name,
        shard=shards[number],
        held_out=[held_out[i] for i in held_out_indices],
        rewards=spoiled(client_rewards(config)[number], fault),
        system_prompt=SYSTEM_PROMPTS[config.simulation.system_prompt],
        block=max(1, config.train.block_size),
        spent=Spent(own_folder(config, name) / FILE if config.output.run else None),
        kept=KeptState(own_folder(config, name)),
        record=SignalRecord(own_folder(config, name) / FOLDER),
    )

    learner = LocalLearner(_loaded_model(config, client_rank(config, number)), data, Reporter(name, held_out_indices))
    residuals = Residuals(own_folder(config, name))
    compressing = CompressingLearner(FaultyLearner(learner, fault) if fault else learner, config, residuals)
    whole: Learner = compressing
    if config.privacy.mode != "none":
        masker = simulated_masker(config, name, member_names(config)) if config.privacy.mode == "secagg" else None
        whole = SummingLearner(inner=compressing, config=config, residuals=residuals, masker=masker)
    return DroppingLearner(whole, name, config.federation.seed) if fault == "dropout" else whole


def client_name(number: int) -> str:
    """Return the name of a simulated organisation."""
    return f"client-{number}"


def member_names(config: RunConfig) -> tuple[str, ...]:
    """Return the names of the simulated organisations that take part."""
    return tuple(client_name(number) for number in config.simulation.taking_part)


def answered_by(number: int, config: RunConfig, problems: int) -> range:
    """Return the indices of the held-out problems that a client answers: dealt in turn, or all for a single client."""
    alone = config.simulation.only >= 0
    return range(problems) if alone else range(number, problems, config.simulation.clients)


@lru_cache(maxsize=1)
def divide(config: RunConfig) -> tuple[list[list[Problem]], list[Problem]]:
    """Partition the dataset, and return (each client's shard with its canaries, all held-out problems).

    Raises:
        ConfigError: a client would have too few problems to train on, or none to answer.
    """
    train, test = load_problems(config)
    if len(test) < config.simulation.clients:
        raise ConfigError(
            f"{len(test)} held-out problems are too few for {config.simulation.clients} clients, each of which answers "
            "some. Raise evaluation.problems or give more in test.jsonl."
        )
    return planted(partition(train, config), make_canaries(config)), test


def client_rewards(config: RunConfig) -> list[tuple[Reward, ...]]:
    """Return each client's reward set, including the environment's reward."""
    specs, environment = config.simulation.rewards.split(";"), client_tools(config).rewards()
    return [load_rewards(specs[k % len(specs)]) + environment for k in range(config.simulation.clients)]


def client_tools(config: RunConfig) -> ToolBox:
    """Load the tools of the policy, which are the same for every simulated client."""
    settings = config.simulation
    return load_tools(settings.tools, settings.environment, settings.tool_turns)


def client_rank(config: RunConfig, number: int) -> int:
    """Return the rank of a simulated client's adapter; 0 is the federation's."""
    ranks = [int(rank) for rank in config.simulation.ranks.split(";")]
    return ranks[number % len(ranks)]


@lru_cache
def _loaded_model(config: RunConfig, rank: int) -> LoadedModel:
    """Return the model that all clients of the same rank share in this process."""
    folder = model_folder(config.model.name, config.model.revision, config.backend.source)
    dtype = resolved_dtype(config, folder)
    base = load_model(folder, dtype, backend=config.backend)
    if config.model.dtype == "auto":
        LOGGER.info("model.dtype auto is %s here", dtype)
    from ...client.learner.training.local_learner import LoadedModel  # after the model: Unsloth has to come first

    return LoadedModel(base, config, divide(config)[0][0][0], rank, box=client_tools(config))
