"""Task and update: the values that header and records stand for, and the metrics every client reports."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from ..adapter.adapter import Adapter
from ..adapter.methods import METHODS
from ..adapter.schema import AdapterSchema, Module, Vector
from ..settings.run_config import RunConfig

TRAIN_METRICS = (
    "reward/mean",
    "reward/std",
    "groups/zero-variance-share",
    "groups/effective",
    "groups/all-right-share",
    "groups/all-wrong-share",
    "policy/kl",
    "policy/entropy",
    "policy/grad-norm",
    "policy/sampler-gap",
    "completion/mean-length",
    "completion/truncated-share",
    "completion/answered-share",
    "completion/empty-reasoning-share",
    "completion/repeated-answer-share",
    "completion/loop-share",
    "tokens/total",
    "seconds/generate",
    "seconds/reward",
    "seconds/update",
    "seconds/total",
)
"""Reported by every client every round: rewards in the client's own units, lengths in tokens, times in seconds. KL,
entropy and the sampler's gap (nats per token, against the trainer) are over completions that had an advantage, or over
all where there is a KL term."""

DEVICES = ("unknown", "cpu", "cuda")


def run_schema(config: RunConfig, modules: tuple[Module, ...]) -> AdapterSchema:
    """The adapter that the settings describe, on these layers."""
    holds = METHODS[config.aggregation.method].holds
    return AdapterSchema(
        modules=modules,
        rank=config.adapter.rank,
        alpha=config.adapter.alpha,
        holds=holds,
        seed=config.federation.seed,
        tiny_size=config.adapter.tiny_size if "v" in holds else 0,
    )


def reward_metrics(names: tuple[str, ...]) -> tuple[str, ...]:
    """The metric names of a client's own reward functions."""
    return tuple(f"reward/{name}/{what}" for name in names for what in ("mean", "std"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a client says of itself when it joins."""

    organisation: str
    schema: AdapterSchema
    base_model_sha256: str
    reward_names: tuple[str, ...]
    """The reward functions whose means it reports; a policy may keep them back."""
    metrics: tuple[str, ...]
    """The training metrics it will send: of TRAIN_METRICS and its rewards, what its policy lets out."""
    examples: int
    """Prompts in the shard."""
    prompts_too_long: int
    """Prompts left out because they exceed grpo.max-prompt-length."""
    device: str = "unknown"
    """One of DEVICES."""
    memory_bytes: int = 0
    """Memory of the device, or of the machine; 0 is not told."""
    tokens_per_second: float = 0.0
    """Tokens sampled per second in one training step's batch; 0 is not told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainTask:
    """One client's work for one attempt at one round."""

    federation: str
    round: int
    attempt: int
    adapter: Adapter
    position: int
    """Prompts of its shard this organisation has used in committed rounds: where it goes on reading."""
    counted_round: int = 0
    """The last round whose update of this organisation counted; 0 is none. What compression left of it is made up for
    now."""
    counted_attempt: int = 0
    """The attempt at that round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What a client learned. Exists only if sound: see `server.intake` and the learner."""

    delta: Vector
    """Laid out by the client's schema; zero where nothing was trained."""
    num_steps: int
    """Optimizer steps taken; fewer than train.steps-per-round only where the time was limited."""
    num_examples: int
    """Prompts trained on."""
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateTask:
    """Answer the client's share of the held-out problems with this adapter."""

    federation: str
    round: int
    adapter: Adapter
    temperature: float
    """0 is greedy."""
    attempt: int = 0
    """The reward gate's: which try at the round this is; 0 is not the gate's. An answer is kept per attempt."""
    against: str = ""
    """SHA-256 of an adapter whose answers to compare with, if this client still has them; empty compares with none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Counts over some problems; tallies of several clients add up.

    The paired counts compare with the base model's answer to the same problem, so a paired interval can be computed
    from sums alone. (A class of a single problem is that problem's answer: the fewer, the less anonymous.)
    """

    problems: int = 0
    correct: int = 0
    """By the strict reading: the answer stands where the format wants it."""
    lenient: int = 0
    """By the last number anywhere in the completion."""
    truncated: int = 0
    tokens: int = 0
    gained: int = 0
    """Correct now, wrong with the base model (strict)."""
    lost: int = 0
    """Wrong now, correct with the base model (strict)."""
    compared: int = 0
    """Problems whose answer by the adapter of the round before is known; the reward gate compares with those."""
    better: int = 0
    """Of these, correct now and wrong then (strict)."""
    worse: int = 0
    """Of these, wrong now and correct then (strict)."""

    def __add__(self, other: Tally) -> Tally:
        names = [f.name for f in fields(Tally)]
        return Tally(**{name: getattr(self, name) + getattr(other, name) for name in names})


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A client's answers, counted: over all problems, and by class (`operator=+`, `style=reasoned`)."""

    total: Tally
    classes: dict[str, Tally] = field(default_factory=dict[str, Tally])
