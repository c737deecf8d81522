"""A federation without models whose updates are seen as sums only: the product's steps around synthetic learners."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from federation import metrics, schema
from fedgrpo.client.learner.masking.summing import SummingLearner
from fedgrpo.client.learner.training.error_feedback import Residuals
from fedgrpo.client.main import evaluated, joining, stepped, trained
from fedgrpo.common.adapter.schema import trained_part, whole_vector
from fedgrpo.common.errors import FedGRPOError
from fedgrpo.common.messages import wire
from fedgrpo.common.messages.messages import Capabilities, Evaluation, Failure, Tally, Update
from fedgrpo.common.seeds import derived_seed
from fedgrpo.common.settings.run_config import RunConfig
from fedgrpo.server.main import run_federation
from fedgrpo.server.run.reader import Run
from fedgrpo.simulations.engine.federation_keys import own_folder, prepare_manifest, simulated_masker
from fedgrpo.simulations.engine.grid import LocalGrid, LocalWorker
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

NAMES = tuple(f"client-{number}" for number in range(5))
Fails = Callable[[str, int, int, str], bool]
"""(client, round, attempt, step) -> whether the client is gone in this step."""


def never(name: str, number: int, attempt: int, step: str) -> bool:
    return False


@dataclass
class Synthetic:
    """A learner whose delta depends on name, round and position, and whose weight and metrics do too."""

    name: str
    config: RunConfig
    length: float = 1.0

    def capabilities(self):
        return Capabilities(
            organisation=self.name,
            schema=schema(self.config),
            base_model_sha256="0" * 64,
            reward_names=("correctness",),
            metrics=tuple(metrics()),
            examples=100,
            prompts_too_long=0,
            held_out=10,
        )

    def generator(self, task):
        return np.random.default_rng(derived_seed(0, self.name, task.round, task.position))

    def train(self, task):
        generator, own = self.generator(task), task.adapter.schema
        delta = (self.length * generator.normal(size=own.size)).astype(np.float32)
        factors = self.config.method.trains_in(task.round)
        delta = whole_vector(own, trained_part(own, delta, factors), factors)
        told = metrics(effective=float(generator.integers(0, 5))) | {"reward/mean": float(generator.normal())}
        return Update(delta=delta, num_steps=1, num_examples=4, metrics=told)

    def evaluate(self, task):
        right = 3 + int(self.name[-1])
        return Evaluation.of(
            Tally(problems=10, correct=right, lenient=right, tokens=50), {"steps=1": Tally(problems=5)}
        )


@dataclass
class World:
    """Five clients whose files outlive the server, and a record of every vector that left under masks."""

    config: RunConfig
    fails: Fails = never
    length: float = 1.0
    masked: dict[tuple[str, str], set[bytes]] = field(default_factory=dict)
    """(client, session) -> the vectors it sent."""

    def learner(self, name: str) -> SummingLearner:
        masker = simulated_masker(self.config, name, NAMES) if self.config.privacy.mode == "secagg" else None
        return SummingLearner(
            inner=Synthetic(name, self.config, self.length),
            config=self.config,
            residuals=Residuals(own_folder(self.config, name) / "rests"),
            masker=masker,
        )

    def app(self) -> ClientApp:
        app = ClientApp()

        def reply(message: Message, context: Context, kind: str) -> Message:
            name = NAMES[int(context.node_config["partition-id"])]
            learner = self.learner(name)  # a new one for each message, as after a restart: only files are kept
            step, place = kind, (0, 0)
            if kind != "join":
                header = wire.header_of(message.content)
                step = str(header.get("step", kind))
                place = self.place(header, learner)
                if self.fails(name, *place, step):
                    raise RuntimeError("gone")
            try:
                content = {
                    "join": lambda: joining(learner),
                    "train": lambda: trained(learner, message.content, self.config),
                    "evaluate": lambda: evaluated(learner, message.content, self.config),
                    "secagg": lambda: stepped(learner, message.content),
                }[kind]()
            except FedGRPOError as error:
                content = wire.record_of(Failure(error=getattr(error, "code", getattr(error, "key", "failed"))))
            if step == "mask" and wire.VECTOR in content:
                data = content[wire.VECTOR][wire.VECTOR].data
                self.masked.setdefault((name, str(header["session"])), set()).add(data)
            return Message(content, reply_to=message)

        app.query("join")(lambda message, context: reply(message, context, "join"))
        app.train()(lambda message, context: reply(message, context, "train"))
        app.evaluate()(lambda message, context: reply(message, context, "evaluate"))
        app.query("secagg")(lambda message, context: reply(message, context, "secagg"))
        return app

    def place(self, header: wire.Header, learner: SummingLearner) -> tuple[int, int]:
        """(round, attempt) of a message; a step of a sum is known by its session, which every client keeps."""
        if "session" not in header:
            return int(header["round"]), int(header["attempt"])
        context = learner.masker.sessions.get(str(header["session"])).context
        return (context.round, context.attempt) if context.kind == "train" else (-1, 0)

    def play(self, grid_type: type[LocalGrid] = LocalGrid, **grid_values: object) -> Run:
        folder = Path(self.config.output.dir) / self.config.output.run
        if self.config.privacy.mode == "secagg":
            prepare_manifest(self.config, NAMES)
        app = self.app()
        nodes = {k + 2: {"partition-id": k} for k in range(len(NAMES))}
        grid = grid_type({node: LocalWorker(app, {node: own}, self.config.flat()) for node, own in nodes.items()})
        for name, value in grid_values.items():
            setattr(grid, name, value)
        try:
            run_federation(grid, self.config)
        finally:
            grid.close()
        return Run.read(folder)
