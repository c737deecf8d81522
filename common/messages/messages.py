"""The messages of the protocol, one frozen dataclass each. Both encodings are derived from their fields (`encoding`).

A field added here travels both over the network and over the learner's socket. What a received value may mean is
checked where it is received: a task in `client.learner.service.guard`, its NETWORK_ONLY fields in `client.main`; a
reply in `server.federation.intake`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from ..adapter.adapter import Adapter
from ..adapter.schema import AdapterSchema, Module, Vector
from ..settings.run_config import RunConfig

Words = npt.NDArray[np.unsignedinteger[Any]]
"""A vector modulo 2^32 (little-endian uint32) or 2^16 (uint16): part of a sum, or masked."""
NO_WORDS: Words = np.zeros(0, dtype="<u4")
DEVICES = ("unknown", "cpu", "cuda")
NETWORK_ONLY = {"network_only": True}
"""Marks a field for server and relay only. The learner does not see it. Its cache answers a repeated task by the hash
of what it sees, so a field that may differ when an attempt is repeated must be marked."""


def run_schema(config: RunConfig, modules: tuple[Module, ...]) -> AdapterSchema:
    """Return the schema of the adapter that the settings describe, on these layers."""
    holds = config.method.holds
    return AdapterSchema(
        modules=modules,
        rank=config.adapter.rank,
        alpha=config.adapter.alpha,
        holds=holds,
        seed=config.federation.seed,
        tiny_size=config.adapter.tiny_size if "v" in holds else 0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The reply of a client that could not do what it was asked: a code, never a text."""

    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinRequest:
    """The server's question to a node it does not know yet."""

    config_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """A client's reply to `JoinRequest`: who it is and what it can train."""

    organisation: str
    schema: AdapterSchema
    base_model_sha256: str
    reward_names: tuple[str, ...]
    """The reward functions whose means it reports; a policy may withhold them."""
    metrics: tuple[str, ...]
    """The training metrics it will send: of TRAIN_METRICS and its rewards, those its policy allows."""
    examples: int
    """Prompts in the shard; 0 where it is not said (secure aggregation)."""
    prompts_too_long: int
    """Prompts left out: longer than grpo.max-prompt-length, in a block with one that is, or too few to fill a block."""
    held_out: int = 0
    """Held-out problems whose counts it will send: it speaks for no more in an evaluation. 0: its policy sends none."""
    device: str = "unknown"
    """One of DEVICES."""
    memory_bytes: int = 0
    """Memory of the device, or of the machine; 0 if not reported."""
    tokens_per_second: float = 0.0
    """Tokens sampled per second in one training step's batch; 0 if not reported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainTask:
    """One client's work for one attempt at one round."""

    federation: str
    round: int
    attempt: int
    adapter: Adapter
    position: int
    """Prompts of its shard this client has used in committed rounds: where it continues reading."""
    counted_round: int = 0
    """The last round whose update of this client counted; 0 is none. Its compression error is fed back now."""
    counted_attempt: int = 0
    """The attempt at that round."""
    members: int = 0
    """Members of the federation whose updates may be in one sum; 0 where the update is sent alone (privacy.mode)."""
    summed_metrics: tuple[str, ...] = ()
    """Training metrics in the sum: those that every client may let out."""
    nonce: str = field(default="", metadata=NETWORK_ONLY)
    schema_sha256: str = field(default="", metadata=NETWORK_ONLY)
    config_sha256: str = field(default="", metadata=NETWORK_ONLY)
    last_refusal: str = field(default="", metadata=NETWORK_ONLY)
    """The code with which the server refused this client's last update; empty if it did not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskId:
    """The fields of a `TrainTask` that the update must repeat exactly; the server refuses any other as stale."""

    federation: str = ""
    round: int = 0
    attempt: int = 0
    nonce: str = ""
    schema_sha256: str = ""
    config_sha256: str = ""

    @classmethod
    def of(cls, task: TrainTask) -> TaskId:
        """Return the identity of a task."""
        return cls(**{each.name: getattr(task, each.name) for each in fields(cls)})


NO_TASK = TaskId()
"""The task of an update that has not left the learner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """A client's reply to `TrainTask`. The server's intake and the learner create it only if it is sound."""

    delta: Vector
    """Laid out by the client's schema; zero where nothing was trained."""
    num_steps: int
    """Optimizer steps taken; fewer than train.steps-per-round only where the time was limited."""
    num_examples: int
    """Prompts trained on."""
    metrics: dict[str, float]
    task: TaskId = field(default=NO_TASK, metadata=NETWORK_ONLY)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateTask:
    """The request to answer the client's share of the held-out problems with this adapter."""

    federation: str
    round: int
    adapter: Adapter
    temperature: float
    """0 is greedy."""
    attempt: int = 0
    """The attempt at the round that the reward gate evaluates; 0 outside the gate. Answers are cached per attempt."""
    against: str = ""
    """SHA-256 of an adapter to compare with, if this client still has its answers; empty compares with none."""
    members: int = 0
    """As of TrainTask: the counts are then part of a sum."""
    config_sha256: str = field(default="", metadata=NETWORK_ONLY)


@dataclass(frozen=True, slots=True, kw_only=True)
class SumPart:
    """A client's reply to a task whose result is part of a sum: its vector (`sum`), or its keys (`secagg`)."""

    words: Words
    """Shape (size of the layout,): the client's vector, unmasked. Empty in secagg."""
    bundle: str = ""
    """The client's signed bundle (`common.secagg.statements`). Empty in `sum`."""
    task: TaskId = field(default=NO_TASK, metadata=NETWORK_ONLY)


@dataclass(frozen=True, slots=True, kw_only=True)
class SecaggRequest:
    """The server's next step of a sum (docs/protocol.md): `share`, `mask`, `agree` or `open`."""

    step: str
    session: str
    """Names the sum: the hash of its context."""
    items: dict[str, str]
    """By organisation. share: signed bundles; mask: boxes for this client; agree: empty, of the survivors; open:
    signatures of the survivors."""
    config_sha256: str = field(default="", metadata=NETWORK_ONLY)


@dataclass(frozen=True, slots=True, kw_only=True)
class SecaggReply:
    """A client's reply to `SecaggRequest`."""

    words: Words
    """mask: the masked vector. Empty otherwise."""
    step: str
    session: str
    items: dict[str, str]
    """By organisation. share: boxes for the others; agree: this client's signature; open: shares of seeds and keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Counts over some problems; tallies of several clients add up.

    The paired counts compare with the base model's answer to the same problem, so a paired interval can be computed
    from sums alone. (A class of a single problem is that problem's answer: the fewer, the less anonymous.)
    """

    problems: int = 0
    correct: int = 0
    """By the strict reading: the answer is where the format requires it."""
    lenient: int = 0
    """By the last number anywhere in the completion."""
    truncated: int = 0
    tokens: int = 0
    gained: int = 0
    """Correct now, wrong with the base model (strict)."""
    lost: int = 0
    """Wrong now, correct with the base model (strict)."""
    compared: int = 0
    """Problems whose answer by the previous round's adapter is known; the reward gate compares with those."""
    better: int = 0
    """Of these, correct now and wrong before (strict)."""
    worse: int = 0
    """Of these, wrong now and correct before (strict)."""

    def __add__(self, other: Tally) -> Tally:
        names = [f.name for f in fields(Tally)]
        return Tally(**{name: getattr(self, name) + getattr(other, name) for name in names})


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A client's reply to `EvaluateTask`: counts of its answers."""

    tallies: dict[str, Tally]
    """By class (`operator=+`, `style=reasoned`), and `total` over all problems."""
    federation: str = field(default="", metadata=NETWORK_ONLY)
    round: int = field(default=0, metadata=NETWORK_ONLY)

    @classmethod
    def of(cls, total: Tally, classes: dict[str, Tally] | None = None) -> Evaluation:
        """Return the evaluation with these counts."""
        return cls(tallies={"total": total, **(classes or {})})

    @property
    def total(self) -> Tally:
        """Return the counts over all problems."""
        return self.tallies["total"]

    @property
    def classes(self) -> dict[str, Tally]:
        """Return the counts by class."""
        return {name: tally for name, tally in self.tallies.items() if name != "total"}
