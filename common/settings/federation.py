"""Every setting of a run, once: its meaning and unit here, its default here, its bounds in `__post_init__`.

In TOML and on Flower's `--run-config` a setting is written `section.name-in-kebab-case`. GRPO settings carry TRL's
names and mean what TRL says; the others are ours. A setting that is not here does not exist.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from ..bounds import at_least, between, one_of
from ..errors import ConfigError
from ..trackers.names import Use, read_uses

FAULTS = ("saturated", "straggler", "sign-flip", "scale", "inverted-reward")


@dataclass(frozen=True, slots=True, kw_only=True)
class Federation:
    """Who takes part and how long the server waits."""

    rounds: int = 10
    """Rounds to commit; a void round is retried and does not count."""
    seed: int = 0
    """Everything random derives from it: the frozen factors, prompt order, sampling."""
    min_clients: int = 2
    """Clients that must have joined, and agree on model and adapter, before a round begins."""
    start_clients: int = 0
    """Clients to wait for before the first round, as long as join-timeout-s; 0 begins with min-clients."""
    clients_per_round: int = 0
    """Cohort size, drawn anew each round; 0 takes every client."""
    quorum: float = 0.5
    """Smallest share of the cohort whose updates must be valid, else the round is void."""
    min_updates: int = 2
    """Fewest valid updates that make a round, besides the quorum; a cohort of fewer clients has to reply in full."""
    join_timeout_s: float = 600.0
    """Seconds to wait for min-clients. A client loads its model before it joins."""
    round_timeout_s: float = 3600.0
    """Deadline of a round, seconds; later replies do not count."""
    ask_again_s: float = 60.0
    """A client whose process died is asked again for this long, seconds, before the round goes on without it; one that
    is silent for this long is asked whether it still works, and sent its task again if it does not."""
    max_void_rounds: int = 3
    """Void attempts in a row after which the run stops."""
    retry_wait_s: float = 1.0
    """Pause before a void round is tried again, seconds; doubles each time."""
    min_tokens_per_second: float = 0.0
    """Slowest client that may join, by its own measurement; 0 takes any, also one that does not tell."""
    max_strikes: int = 3
    """Refused replies after which a client sits out the rest of the run."""

    def updates_needed(self, cohort: int) -> int:
        """Valid updates that a round with a cohort of so many clients needs."""
        return max(math.ceil(cohort * self.quorum), min(self.min_updates, cohort))

    def __post_init__(self) -> None:
        at_least("federation.rounds", self.rounds, 1, "a federation of no rounds trains nothing")
        between("federation.seed", self.seed, 0, (1 << 32) - 1, "seeds are counted from 0, and have 32 bits")
        at_least("federation.min-clients", self.min_clients, 1, "somebody has to train")
        at_least("federation.start-clients", self.start_clients, 0, "0 begins with min-clients")
        at_least("federation.clients-per-round", self.clients_per_round, 0, "0 takes every client")
        between(
            "federation.quorum",
            self.quorum,
            0.0,
            1.0,
            "it is a share of the cohort, and a round nobody answered must not count",
            open_low=True,
        )
        at_least("federation.min-updates", self.min_updates, 1, "a round nobody answered must not count")
        at_least("federation.join-timeout-s", self.join_timeout_s, 0, "it is a time in seconds")
        at_least("federation.round-timeout-s", self.round_timeout_s, 1, "no client can answer sooner")
        at_least("federation.ask-again-s", self.ask_again_s, 0, "0 asks nobody again")
        at_least(
            "federation.max-void-rounds",
            self.max_void_rounds,
            1,
            "the first void attempt would already be one too many",
        )
        at_least("federation.retry-wait-s", self.retry_wait_s, 0, "it is a time in seconds")
        at_least("federation.min-tokens-per-second", self.min_tokens_per_second, 0.0, "0 takes any client")
        at_least("federation.max-strikes", self.max_strikes, 1, "a client would sit out before it was asked")


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The base model every party has; it never crosses the network."""

    name: str = "builtin"
    """`builtin` or `builtin-split` (they come with fedgrpo), a Hub name, or a local folder."""
    revision: str = ""
    """Hub revision; empty is the default branch."""
    dtype: str = "float32"
    """Weights of the base model. The adapter is float32 always."""

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ConfigError("model.name is empty. Give a Hub name, a local folder, or builtin.")
        one_of("model.dtype", self.dtype, ("float32", "bfloat16", "float16"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """The LoRA adapter (Hu et al. 2021, arXiv:2106.09685): W + (alpha / rank) B A."""

    rank: int = 16
    alpha: int = 32
    target_modules: str = "all-linear"
    """`all-linear`, or names separated by commas: `q_proj,v_proj`."""
    tiny_size: int = 13
    """Trained numbers in all, with aggregation.method = tiny."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(
                f"adapter.rank is {self.rank}, but an adapter of rank 0 or less has no parameters to train. "
                "Set it to 1 or more (8 to 64 are usual)."
            )
        at_least("adapter.alpha", self.alpha, 1, "the adapter is scaled by alpha / rank, and 0 would switch it off")
        between("adapter.tiny-size", self.tiny_size, 1, 1024, "each number has a frozen matrix of its own per layer")
        if not self.target_modules.strip(" ,"):
            raise ConfigError("adapter.target-modules is empty. Name the layers to adapt, or all-linear.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Train:
    """Local work per round."""

    steps_per_round: int = 4
    """Optimizer steps each client takes a round. Adam's moments start at zero every round
    (docs/decisions/003)."""
    seconds_per_round: float = 0.0
    """Time budget: a client stops before a step that would not fit, at the latest after steps-per-round. Fast and slow
    clients then end together, and deltas are normalised by their steps. 0 has no budget. Not bit-reproducible."""
    prox: float = 0.0
    """FedProx (Li et al. 2020, arXiv:1812.06127): the loss rises by prox / 2 times the squared distance of the trained
    factors from the round's global adapter."""

    def __post_init__(self) -> None:
        at_least("train.steps-per-round", self.steps_per_round, 1, "a round without a step has no update")
        at_least("train.seconds-per-round", self.seconds_per_round, 0.0, "0 has no time budget")
        at_least("train.prox", self.prox, 0.0, "it is the weight of a penalty; 0 has none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Held-out problems, answered by the clients before the first round, between rounds and at the end."""

    problems: int = 300
    """Held-out problems over all clients."""
    every: int = 1
    """Rounds between evaluations; 0 evaluates only before and after."""
    temperature: float = 1.0
    """Of the headline accuracy; greedy accuracy is reported besides, before and after."""
    batch_size: int = 75
    """Problems answered at once."""
    max_completion_length: int = 0
    """Tokens; 0 takes grpo.max-completion-length."""
    classes: str = ""
    """Columns of the data whose values accuracy is split by: `operator,steps`."""

    def __post_init__(self) -> None:
        at_least("evaluation.problems", self.problems, 1, "an accuracy needs a problem")
        at_least("evaluation.every", self.every, 0, "0 evaluates only before and after")
        between(
            "evaluation.temperature",
            self.temperature,
            0.0,
            10.0,
            "it is the sampled accuracy; the greedy one is measured besides",
            open_low=True,
        )
        at_least("evaluation.batch-size", self.batch_size, 1, "a batch needs a problem")
        at_least(
            "evaluation.max-completion-length", self.max_completion_length, 0, "0 takes grpo.max-completion-length"
        )

    @property
    def class_columns(self) -> tuple[str, ...]:
        """The names in `classes`."""
        return tuple(name.strip() for name in self.classes.split(",") if name.strip())


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """Simulated clients only: their data and rewards. A real client takes these from its own file."""

    clients: int = 4
    only: int = -1
    """Number of the one client that takes part, with the shard it has among all of them; it answers every held-out
    problem. -1: all take part."""
    workers: int = 0
    """Worker processes; 0 takes one per core, at most one per client."""
    dataset: str = "builtin"
    """`builtin` (generated grade-school problems) or `gsm8k`."""
    data: str = ""
    """Folder with train.jsonl and test.jsonl; empty loads the dataset from the Hub."""
    problems: int = 0
    """Training problems over all clients; 0 takes all there are."""
    partition: str = "iid"
    """`iid`, `dirichlet` or `label` (by partition-label; a label's problems spread, or all with one client), `size`, or
    `difficulty` (by the number of steps)."""
    partition_alpha: float = 0.3
    """Concentration of dirichlet and size: below 1 is uneven, 100 is nearly even."""
    partition_label: str = "topic"
    """The column that dirichlet and label divide by."""
    system_prompt: str = "none"
    """`none`, `xml` (<reasoning> and <answer>), `think` (<think>) or `hash` (#### before the answer)."""
    rewards: str = "gsm8k"
    """A reward set, `name=weight` pairs, or a Python file; `;` separates the sets of client 0, 1, ..."""
    tools: str = ""
    """A Python file whose public functions the policy may call while it completes."""
    environment: str = ""
    """`env.py:CLASS`: each rollout has an instance of its own, whose public methods are tools."""
    tool_turns: int = 4
    """Rounds of tool calls in one completion at most; 0 has no limit but the completion's length."""
    ranks: str = "0"
    """Ranks of the clients' adapters, `;` separates client 0, 1, ..., and they repeat: `4;8;16`. 0 is adapter.rank."""
    faults: str = ""
    """Clients that are not as they should be: `3=saturated;7=sign-flip`. `saturated`: all of its groups but one in 25
    are all right. `straggler`: takes four times as long. Poisoners: `sign-flip`, `scale` (a hundred times its delta),
    `inverted-reward`; they lie to the reward gate, too."""

    def __post_init__(self) -> None:
        between("simulation.clients", self.clients, 1, 1000, "a simulation holds all of them on this machine")
        highest = self.clients - 1
        between("simulation.only", self.only, -1, highest, f"clients are 0 to {highest}, and -1 takes all of them")
        at_least("simulation.workers", self.workers, 0, "0 takes one per core")
        one_of("simulation.dataset", self.dataset, ("builtin", "gsm8k"))
        at_least("simulation.problems", self.problems, 0, "0 takes all there are")
        one_of("simulation.partition", self.partition, ("iid", "dirichlet", "label", "size", "difficulty"))
        between(
            "simulation.partition-alpha",
            self.partition_alpha,
            0.0,
            1e6,
            "it is the concentration of a Dirichlet distribution",
            open_low=True,
        )
        one_of("simulation.system-prompt", self.system_prompt, ("none", "xml", "think", "hash"))
        at_least("simulation.tool-turns", self.tool_turns, 0, "0 has no limit but the completion's length")
        if not re.fullmatch(r"\d+(;\d+)*", self.ranks):
            raise ConfigError(f"simulation.ranks is {self.ranks!r}. Write whole numbers, as in 4;8;16.")
        self._check_faults()
        sets = self.rewards.split(";")
        if len(sets) not in (1, self.clients):
            raise ConfigError(
                f"simulation.rewards names {len(sets)} sets for {self.clients} clients. Give one set for all, "
                "or one per client separated by semicolons."
            )

    @property
    def fault_of(self) -> dict[int, str]:
        """Client -> its fault."""
        pairs = (part.partition("=") for part in self.faults.split(";") if part.strip())
        return {int(number): fault.strip() for number, _, fault in pairs}

    def _check_faults(self) -> None:
        try:
            found = self.fault_of
        except ValueError:
            found = {-1: ""}
        if any(not 0 <= number < self.clients or fault not in FAULTS for number, fault in found.items()):
            raise ConfigError(
                f"simulation.faults is {self.faults!r}. Write CLIENT=FAULT, separated by ';', with clients 0 to "
                f"{self.clients - 1} and the faults {', '.join(FAULTS)}."
            )

    @property
    def taking_part(self) -> tuple[int, ...]:
        """Numbers of the clients that take part."""
        return tuple(range(self.clients)) if self.only < 0 else (self.only,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Where a run is written."""

    dir: str = "runs"
    """Folder of run folders."""
    run: str = ""
    """Name of this run's folder; empty makes one of scenario, date and time. An existing run is resumed."""
    nodes: str = ""
    """File that says which node is which organisation (`fedgrpo keys register` writes it): no other may take part, and
    none under another's name. Without it every node is taken at its word."""
    trackers: str = ""
    """Where metrics.jsonl goes besides: `tensorboard`, `wandb`, `trackio`, `mlflow`, separated by commas. Each keeps to
    this machine, unless an address says where it sends: `wandb=https://api.wandb.ai`. Tokens: from the environment."""

    def __post_init__(self) -> None:
        read_uses("output.trackers", self.trackers)

    @property
    def tracker_uses(self) -> tuple[Use, ...]:
        """The trackers, read."""
        return read_uses("output.trackers", self.trackers)
