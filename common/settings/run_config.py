"""RunConfig: all settings of a run, to and from Flower's flat dictionary and scenario TOML.

Each section is a class of its own module: meaning and unit of a setting in its docstring, its default beside it, its
bounds in `__post_init__`. In TOML and on Flower's `--run-config` a setting is written `section.name-in-kebab-case`.
"""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from ..adapter.compression import CODECS
from ..adapter.methods import METHODS, Method
from ..aggregation.robust import RULES
from ..errors import ConfigError
from . import toml
from .aggregation import Aggregation, Compression, Gate, Intake, updates_needed
from .automatic_method import AUTO, automatic_method
from .backend import Backend
from .dp import DP, check_dp
from .evaluation import Evaluation
from .federation import Federation
from .grpo import GRPO
from .kept_state import check_kept_state
from .model import Lora, Model
from .output import Output
from .privacy import Privacy
from .simulation import Simulation
from .summing import check_summing
from .training import Train

Value = int | float | str | bool
HINT = " `fedgrpo simulate --list-settings` prints them all."


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """All settings of a run. Frozen: a server and clients with the same `sha256` run the same experiment."""

    federation: Federation = field(default_factory=Federation)
    model: Model = field(default_factory=Model)
    adapter: Lora = field(default_factory=Lora)
    grpo: GRPO = field(default_factory=GRPO)
    train: Train = field(default_factory=Train)
    aggregation: Aggregation = field(default_factory=Aggregation)
    intake: Intake = field(default_factory=Intake)
    compression: Compression = field(default_factory=Compression)
    gate: Gate = field(default_factory=Gate)
    privacy: Privacy = field(default_factory=Privacy)
    dp: DP = field(default_factory=DP)
    evaluation: Evaluation = field(default_factory=Evaluation)
    backend: Backend = field(default_factory=Backend)
    simulation: Simulation = field(default_factory=Simulation)
    output: Output = field(default_factory=Output)

    def __post_init__(self) -> None:
        method = self.method
        if "W" in method.holds and self.grpo.kl_reference == "base":
            raise ConfigError(
                f"grpo.kl-reference is base, but aggregation.method {self.method_name} changes the base's "
                "weights every round. Use kl-reference global, or another method."
            )
        if self.gate.max_kl > 0 and self.grpo.beta == 0:
            raise ConfigError("gate.max-kl needs a KL term, but grpo.beta is 0. Set grpo.beta, or gate.max-kl = 0.")
        if self.train.block_size and self.prompts_per_round % self.train.block_size:
            raise ConfigError(
                f"A round has {self.prompts_per_round} prompts, which are not whole blocks of train.block-size = "
                f"{self.train.block_size}. Change train.steps-per-round or the batch size."
            )
        self._check_aggregation()
        self._check_backend()
        check_dp(self)
        check_kept_state(self)
        check_summing(self)

    def _check_backend(self) -> None:
        backend, dense = self.backend, "W" in self.method.holds
        if dense and (backend.uses_vllm or backend.loader != "transformers" or backend.quantization != "none"):
            raise ConfigError(
                f"aggregation.method {self.method_name} changes the base's weights, which backend.sampler "
                f"{backend.sampler}, backend.loader {backend.loader} and backend.quantization {backend.quantization} "
                "do not allow. Use transformers and no quantization, or another method."
            )
        if 0 < backend.max_lora_rank < self.adapter.rank:
            raise ConfigError(
                f"backend.max-lora-rank is {backend.max_lora_rank}, less than adapter.rank = {self.adapter.rank}. "
                "Set it to 0, which uses the adapter's."
            )

    def _check_aggregation(self) -> None:
        method = self.method
        if "W" in method.holds and self.model.dtype not in ("float32", "auto"):
            raise ConfigError(
                f"aggregation.method {self.method_name} adds small numbers to the base's weights every round; "
                f"model.dtype {self.model.dtype} rounds them away. Use float32, or another method."
            )
        if self.intake.clip_to_median and len(method.trains) > 1:
            raise ConfigError(
                f"intake.clip-to-median is {self.intake.clip_to_median:g} and aggregation.method is "
                f"{self.method_name}, whose rounds train different factors in turn: the norms of one round say "
                "nothing about the next. Set clip-to-median = 0, or use another method."
            )
        cohort = self.federation.clients_per_round
        needed = updates_needed(self.aggregation.rule, self.aggregation.hostile)
        if 0 < cohort < needed:
            raise ConfigError(
                f"aggregation.rule {self.aggregation.rule} needs {needed} updates to tolerate "
                f"{self.aggregation.hostile} malicious clients, but federation.clients-per-round is {cohort}."
            )
        if self.mixed_ranks_refused and any(
            rank not in ("0", str(self.adapter.rank)) for rank in self.simulation.ranks.split(";")
        ):
            raise ConfigError(
                f"simulation.ranks is {self.simulation.ranks}, but all need one rank: {self.mixed_ranks_refused}."
            )

    @property
    def method_name(self) -> str:
        """Return the aggregation method, which `aggregation.method` names or leaves to the other settings."""
        named = self.aggregation.method
        return automatic_method(self) if named == AUTO else named

    @property
    def named_aggregation(self) -> Aggregation:
        """Return the section `aggregation` with the method's name in place of `auto`."""
        return replace(self.aggregation, method=self.method_name)

    @property
    def method(self) -> Method:
        """Return what clients train and how it is aggregated."""
        return METHODS[self.method_name]

    @property
    def mixed_ranks_refused(self) -> str:
        """Return why all clients need the adapter's rank; empty if each may have a smaller one."""
        if not self.method.mixed_ranks:
            return f"aggregation.method {self.method_name} has no smaller ranks"
        if RULES[self.aggregation.rule].by_coordinate:
            return f"by coordinate, as aggregation.rule {self.aggregation.rule} goes, padding would vote"
        if CODECS[self.compression.down].in_blocks:
            return f"an adapter in blocks of compression.down {self.compression.down} cannot be cut to a smaller rank"
        return ""

    @property
    def feeds_back(self) -> bool:
        """Whether what compression takes from a client's delta is added to its next one."""
        return self.compression.error_feedback and self.method.keeps_factors

    @property
    def corrects_sampler(self) -> bool:
        """Whether the sampler's log-probabilities are those of the old policy.

        Not with top-p or top-k: they belong to the tokens that were left to choose from, the trainer's to all, so their
        ratio is the probability mass that was left, far below 1 for each token, and would be clipped as if the policy
        had moved.
        """
        whole = self.grpo.top_p == 1 and self.grpo.top_k == 0
        return self.backend.sampler_correction == "ratio" and whole

    @property
    def total_steps(self) -> int:
        """Optimizer steps of one client over the whole federation: the length of the learning-rate schedule."""
        return self.federation.rounds * self.train.steps_per_round

    @property
    def prompts_per_round(self) -> int:
        """Prompts a client trains on in a round of `train.steps-per-round` steps."""
        return self.prompts_in(self.train.steps_per_round)

    def prompts_in(self, steps: int) -> int:
        """Return the number of prompts for some optimizer steps: each batch of completions serves `num_iterations` of
        them."""
        return math.ceil(steps / self.grpo.num_iterations) * self.grpo.prompts_per_step

    @property
    def sha256(self) -> str:
        """Return the hash of all settings that decide the result: not the output folder or the number of processes."""
        relevant = {k: v for k, v in self.flat().items() if not k.startswith("output.") and k != "simulation.workers"}
        return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()

    def flat(self) -> dict[str, Value]:
        """Return `{"section.name-in-kebab-case": value}`, in the order of definition."""
        return cast(dict[str, Value], toml.flat(self))

    def with_values(self, values: Mapping[str, object]) -> RunConfig:
        """Return this configuration with some settings replaced.

        Args:
            values: flat kebab keys; an `int` is accepted for a `float` setting.

        Raises:
            ConfigError: a key that does not exist (the nearest is named), a wrong type, a value out of bounds.
        """
        return toml.with_values(self, values, HINT)

    def to_toml(self) -> str:
        """Return the settings as a scenario file that `load_scenario` reads back to an equal configuration."""
        return toml.to_toml(self)


def load_scenario(path: Path) -> RunConfig:
    """Read a scenario TOML over the defaults.

    Raises:
        ConfigError: the file is missing or not TOML, or a setting in it is wrong; names the file.
    """
    values = toml.read_toml(path, "scenario")
    try:
        return RunConfig().with_values(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def parse_override(text: str) -> tuple[str, Value]:
    """Split `section.key=value`; the value is read as TOML, or as a plain string if it is not a TOML value.

    >>> parse_override("grpo.beta=0.04"), parse_override("model.name=Qwen/Qwen2.5-0.5B-Instruct")
    (('grpo.beta', 0.04), ('model.name', 'Qwen/Qwen2.5-0.5B-Instruct'))
    """
    key, separator, raw = text.partition("=")
    if not separator or "." not in key:
        raise ConfigError(f"--set {text} is not of the form section.key=value, as in grpo.beta=0.04.")
    try:
        value = tomllib.loads(f"value = {raw.strip()}")["value"]
    except (ValueError, OverflowError, RecursionError):
        value = raw.strip()
    if not isinstance(value, (int, float, str)):
        raise ConfigError(f"--set {text}: a setting is a number, true or false, or text.")
    return key.strip(), value
