"""The settings of simulated clients: their number, data, rewards, tools and faults."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..bounds import at_least, between, one_of
from ..errors import ConfigError

DATASETS = ("builtin", "words", "gsm8k")
FAULTS = ("saturated", "straggler", "dropout", "sign-flip", "scale", "inverted-reward")


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """Data, rewards and faults of simulated clients. A real client has these in its own file."""

    clients: int = 4
    only: int = -1
    """Number of the one client that takes part, with its shard of all clients' data; it answers every held-out problem.
    -1: all take part."""
    workers: int = 0
    """Worker processes; 0 starts one per core, at most one per client."""
    dataset: str = "builtin"
    """`builtin` (generated grade-school problems), `words` (generated too, in plain English, for a small pretrained
    model), or `gsm8k`."""
    data: str = ""
    """Folder with train.jsonl and test.jsonl; empty loads the dataset from the Hub."""
    problems: int = 0
    """Training problems of all clients together; 0 uses all."""
    most_steps: int = 0
    """Only problems with a solution of at most so many steps, in training and held out; 0 takes all."""
    start_steps: int = 0
    """Steps of supervised fine-tuning on worked-out training problems before the federation begins, which teach the
    form of an answer; 0 begins with the model as it is. The taught model is kept in the cache, as the base model."""
    start_learning_rate: float = 3e-4
    """Of these steps; it decays to 0."""
    partition: str = "iid"
    """`iid`, `dirichlet` or `label` (by partition-label; the problems of a label are spread, or all go to one client),
    `size`, or `difficulty` (by the number of steps)."""
    partition_alpha: float = 0.3
    """Concentration of dirichlet and size: below 1 is uneven, 100 is nearly even."""
    partition_label: str = "topic"
    """The column by which dirichlet and label partition."""
    system_prompt: str = "none"
    """`none`, `xml` (<reasoning> and <answer>), `think` (<think>) or `hash` (#### before the answer)."""
    rewards: str = "gsm8k"
    """A reward set, `name=weight` pairs, or a Python file; `;` separates the sets of client 0, 1, ..."""
    tools: str = ""
    """A Python file whose public functions the policy may call during a completion."""
    environment: str = ""
    """`env.py:CLASS`: each rollout has an instance, whose public methods are tools."""
    tool_turns: int = 4
    """Rounds of tool calls in one completion at most; 0 is limited by the completion's length only."""
    ranks: str = "0"
    """Ranks of the clients' adapters, `;` separates client 0, 1, ..., and they repeat: `4;8;16`. 0 is adapter.rank."""
    faults: str = ""
    """Simulated faulty and malicious clients: `3=saturated;7=sign-flip`. `saturated`: in all but one of 25 groups every
    completion is right. `straggler`: takes four times as long. `dropout`: is gone from a random step of each round's
    first attempt on, and back when it is asked again. Poisoners: `sign-flip`, `scale` (a hundred times its
    delta), `inverted-reward`; they also lie to the reward gate."""
    canaries: int = 0
    """Made-up problems; a coin decides for each whether it is added to a client's shard. `fedgrpo audit membership`
    tries to tell which were (docs/membership.md)."""
    canary_seed: int = 0
    """Other canaries and other coins for the same training seed."""

    def __post_init__(self) -> None:
        between("simulation.clients", self.clients, 1, 1000, "a simulation runs all of them on this machine")
        highest = self.clients - 1
        between("simulation.only", self.only, -1, highest, f"clients are 0 to {highest}, and -1 selects all of them")
        at_least("simulation.workers", self.workers, 0, "0 starts one per core")
        one_of("simulation.dataset", self.dataset, DATASETS)
        at_least("simulation.problems", self.problems, 0, "0 uses all")
        at_least("simulation.most-steps", self.most_steps, 0, "0 takes all")
        between("simulation.start-steps", self.start_steps, 0, 10_000, "0 begins with the model as it is")
        between("simulation.start-learning-rate", self.start_learning_rate, 0.0, 1.0, "it is a step", open_low=True)
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
        at_least("simulation.tool-turns", self.tool_turns, 0, "0 is limited by the completion's length only")
        between("simulation.canaries", self.canaries, 0, 10_000, "0 plants none")
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
        """Return the fault of each faulty client, by its number."""
        pairs = (part.partition("=") for part in self.faults.split(";") if part.strip())
        return {int(number): fault.strip() for number, _, fault in pairs}

    def _check_faults(self) -> None:
        try:
            faults = self.fault_of
        except ValueError:
            faults = {-1: ""}
        if any(not 0 <= number < self.clients or fault not in FAULTS for number, fault in faults.items()):
            raise ConfigError(
                f"simulation.faults is {self.faults!r}. Write CLIENT=FAULT, separated by ';', with clients 0 to "
                f"{self.clients - 1} and the faults {', '.join(FAULTS)}."
            )

    @property
    def taking_part(self) -> tuple[int, ...]:
        """Numbers of the clients that take part."""
        return tuple(range(self.clients)) if self.only < 0 else (self.only,)
