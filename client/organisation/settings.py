"""The organisation's file: everything that is the organisation's own and that no server decides.

`fedgrpo client init` writes one with comments (`organisation.toml.template`). Paths in it are relative to the file.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ...common.bounds import NAME, at_least, between
from ...common.errors import ConfigError
from ...common.settings import toml
from ...common.settings.backend import Backend
from ...common.trackers.names import Use, read_uses
from .columns import check_columns
from .membership import Membership
from .model import Model
from .policy_settings import Policy

MAX_SOCKET_PATH = 100
"""Bytes of a Unix socket's path; the kernel's limit is 107."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who this is."""

    name: str = ""
    """The organisation's name, which the server and its operator see."""

    def __post_init__(self) -> None:
        if self.name and not NAME.fullmatch(self.name):
            raise ConfigError(
                f"organisation.name is {self.name!r}, but must be at most 64 English letters, digits, dots and hyphens."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """What the organisation trains on. Never leaves."""

    train: str = ""
    """A .jsonl, .parquet or .csv file, or `hub:NAME[:CONFIG]:SPLIT`."""
    held_out: str = ""
    """The same for held-out problems; empty takes held-out-share of `train`."""
    held_out_share: float = 0.1
    """Share of `train` that is held out and never trained on, chosen by a hash of the question."""
    question: str = "question"
    """Column of the question. In a nested one: `reward_model.style`, and `prompt.0.content` for a list's first item."""
    answer: str = "answer"
    """Column of the reference answer, which rewards get as `answer`."""
    answer_after: str = ""
    """Take only what follows the last of these marks in the answer column: GSM8K has `####`."""
    unit_id: str = ""
    """Column that says whom a row is about, such as a patient's number: differential privacy protects all rows of one
    unit together, and they are held out together. Empty: each question is a unit of its own."""
    labels: tuple[str, ...] = ()
    """Further columns, which rewards get under their own names and accuracy can be split by."""

    def __post_init__(self) -> None:
        between("data.held-out-share", self.held_out_share, 0.0, 0.9, "something must be left to train on")
        check_columns("data.labels", self.labels)
        taken = sorted({self.question, self.answer} & set(self.labels))
        if taken:
            raise ConfigError(f"data.labels names {taken[0]!r}, which is the column of the question or the answer.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """How a problem is put to the model."""

    system: str = ""
    """System prompt; empty sends none."""
    template: str = "{question}"
    """The user's turn; `{question}` and the columns in data.labels are filled in, other braces stay as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewards:
    """What a completion is paid for."""

    use: str = ""
    """`gsm8k`, `correctness=1,strict-format=0.5`, `rewards.py`, or a mixture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What the policy may use while it completes: the organisation's own Python. What a tool says never leaves."""

    use: str = ""
    """A Python file; every public function in it is a tool."""
    environment: str = ""
    """`env.py:CLASS`: each rollout has an instance of its own, whose public methods are tools."""
    turns: int = 4
    """Rounds of tool calls in one completion at most; 0 has no limit but the completion's length."""

    def __post_init__(self) -> None:
        at_least("tools.turns", self.turns, 0, "0 has no limit but the completion's length")


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerSettings:
    """The process that holds model, data and rewards."""

    folder: str = "state"
    """Socket, logs and finished deltas; only the owner may enter."""
    socket: str = ""
    """Unix socket; empty is `learner.sock` in the folder."""
    socket_group: str = ""
    """A group that may use the socket, where the SuperNode runs under another account."""
    python: str = ""
    """Python of the environment that has torch and TRL; empty is the one `client up` runs in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracking:
    """Trackers of this organisation's own: what its learner measures at each step. Nothing of it goes to the server,
    and nothing of the server's changes it."""

    use: str = ""
    """`tensorboard`, `wandb`, `trackio`, `mlflow`, separated by commas. Each keeps to this machine, unless an address
    says where it sends: `mlflow=https://mlflow.clinic.example`. Tokens: from the learner's environment."""
    project: str = "fedgrpo"
    """What the trackers file the runs under."""
    folder: str = ""
    """Of their files; empty is `tracking` in the learner's folder."""

    def __post_init__(self) -> None:
        read_uses("tracking.use", self.use)
        if not NAME.fullmatch(self.project):
            raise ConfigError(
                f"tracking.project is {self.project!r}. Use at most 64 English letters, digits, dots and hyphens."
            )

    @property
    def uses(self) -> tuple[Use, ...]:
        """Return the trackers, parsed."""
        return read_uses("tracking.use", self.use)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flower:
    """How to reach the federation."""

    superlink: str = ""
    """HOST:PORT of the operator's gateway."""
    root_certificates: str = ""
    """The CA file that the operator gave out."""
    key: str = ""
    """This node's private key (`fedgrpo keys node`); its public half is registered by the operator."""
    egress_record: str = "egress.jsonl"
    """Return the record of everything that was sent. The account the SuperNode runs under writes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Organisation:
    """All sections of an organisation's file."""

    organisation: Identity = field(default_factory=Identity)
    data: Data = field(default_factory=Data)
    prompt: Prompt = field(default_factory=Prompt)
    rewards: Rewards = field(default_factory=Rewards)
    tools: Tools = field(default_factory=Tools)
    model: Model = field(default_factory=Model)
    backend: Backend = field(default_factory=Backend)
    learner: LearnerSettings = field(default_factory=LearnerSettings)
    tracking: Tracking = field(default_factory=Tracking)
    federation: Membership = field(default_factory=Membership)
    flower: Flower = field(default_factory=Flower)
    policy: Policy = field(default_factory=Policy)


@dataclass(frozen=True)
class OrganisationFile:
    """An organisation's file, read: its settings, and its paths made absolute."""

    file: Path
    settings: Organisation

    @classmethod
    def read(cls, file: Path) -> OrganisationFile:
        """Read an organisation's file.

        Raises:
            ConfigError: the file is absent, no TOML, or a setting in it is wrong; the file is named.
        """
        values = toml.read_toml(file, "organisation file")
        try:
            settings = toml.with_values(Organisation(), values, " `fedgrpo client init` writes a file with all.")
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") from error
        organisation = cls(file.expanduser().resolve(), settings)
        for key in ("organisation.name", "data.train", "rewards.use", "model.name"):
            if not toml.flat(settings)[key]:
                raise ConfigError(f"{file}: {key} is empty. Every organisation needs its own.")
        if len(str(organisation.socket).encode()) > MAX_SOCKET_PATH:
            raise ConfigError(
                f"{file}: the path of the learner's socket, {organisation.socket}, is longer than "
                f"{MAX_SOCKET_PATH} bytes, which the system does not allow. Set learner.socket to a shorter one."
            )
        return organisation

    @property
    def name(self) -> str:
        """Return the organisation's name."""
        return self.settings.organisation.name

    @property
    def policy(self) -> Policy:
        """Return the policy section."""
        return self.settings.policy

    @cached_property
    def policy_sha256(self) -> str:
        """Return the hash of the policy, which the egress record names."""
        return hashlib.sha256(repr(self.settings.policy).encode()).hexdigest()

    @property
    def folder(self) -> Path:
        """Return the folder that the client writes to."""
        return self.path(self.settings.learner.folder)

    @property
    def socket(self) -> Path:
        """Return the path of the learner's socket."""
        named = self.settings.learner.socket
        return self.path(named) if named else self.folder / "learner.sock"

    @property
    def tracking_folder(self) -> Path:
        """Return the trackers' folder."""
        named = self.settings.tracking.folder
        return self.path(named) if named else self.folder / "tracking"

    @property
    def egress_record(self) -> Path:
        """The record of everything that left."""
        return self.path(self.settings.flower.egress_record)

    def path(self, text: str) -> Path:
        """Resolve a path in the file, relative to the file."""
        return (self.file.parent / Path(text).expanduser()).absolute()
