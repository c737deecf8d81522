"""A learner on the built-in policy, small enough for a test."""

from fedgrpo.client.learner.models.base_model import Base
from fedgrpo.client.learner.models.process import prepare_process
from fedgrpo.client.learner.rewards import load_rewards
from fedgrpo.client.learner.training.local_learner import ClientData, LoadedModel, LocalLearner
from fedgrpo.client.learner.training.watcher import Watcher
from fedgrpo.common.settings.run_config import RunConfig
from fedgrpo.simulations.builtin import world
from fedgrpo.simulations.engine.simulated_clients import BUILTIN_POLICY

BASE = {
    "federation.rounds": 3,
    "grpo.max-completion-length": 44,
    "grpo.num-generations": 4,
    "grpo.per-device-train-batch-size": 8,
    "grpo.learning-rate": 4e-3,
    "train.steps-per-round": 2,
    "adapter.rank": 4,
    "adapter.alpha": 8,
    "simulation.dataset": "builtin",
}
PROBLEMS = [worked.problem() for worked in world.problems("train", 24, 0)]


def make_config(**values):
    return RunConfig().with_values({**BASE, **{k.replace("__", ".").replace("_", "-"): v for k, v in values.items()}})


def make_model(config, rank=0):
    return LoadedModel(Base.load(BUILTIN_POLICY, "float32", prepare_process()), config, PROBLEMS[0], rank)


def make_learner(model, name="client-0", shard=PROBLEMS, rewards=None, watcher=None, held_out=PROBLEMS[:6]):
    data = ClientData(
        organisation=name,
        shard=shard,
        held_out=held_out,
        rewards=rewards or load_rewards("gsm8k"),
        system_prompt="",
    )
    return LocalLearner(model, data, watcher or Watcher())
