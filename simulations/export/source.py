"""Which adapter is exported: of a run folder one round's, or one adapter folder. No torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ...common.adapter.adapter import Adapter
from ...common.adapter.peft_files import BASE, CONFIG, SCHEMA, read_peft
from ...common.analysis.scores import score
from ...common.errors import ConfigError
from ...common.settings.run_config import RunConfig
from ...server.run.reader import Run
from ...server.run.store import Store
from .output_folder import RECORD

BUILT_IN = ("builtin", "builtin-split")


@dataclass(frozen=True, slots=True)
class BaseModel:
    """The base model of an adapter."""

    name: str
    """As the run has it: a built-in one, a Hub name, or a folder of this machine."""
    revision: str
    public: str
    """What others know it by; never a path."""

    @property
    def built_in(self) -> bool:
        """Whether it comes with fedgrpo."""
        return self.public in BUILT_IN

    @property
    def on_hub(self) -> bool:
        """Whether the public name is a Hub name."""
        return not self.built_in and self.public.count("/") == 1


@dataclass(frozen=True, slots=True)
class Source:
    """An adapter and where it comes from."""

    adapter: Adapter
    base: BaseModel
    run: Run | None = None
    """The run that trained it; None where only its folder is at hand."""
    round: int | None = None
    best: bool = False
    """Whether the round was chosen by its held-out accuracy."""

    @property
    def config(self) -> RunConfig | None:
        """The run's settings."""
        return self.run.config if self.run else None

    @property
    def base_sha256(self) -> str:
        """Hash of the base model's files that every member agreed on; empty where no journal tells it."""
        created = [line for line in self.run.journal if line["event"] == "CREATED"] if self.run else []
        return str(created[0].get("base_model", "")) if created else ""


def locate(target: Path, number: int | None, best: bool, public: str = "") -> Source:
    """The adapter that `target` means.

    Args:
        target: a run folder, `RUN/adapters/NUMBER`, or another folder with an adapter of fedgrpo.
        number: the round; None takes the last committed one.
        best: take the committed round whose adapter answered most held-out problems right.
        public: what others know the base model by; empty derives it from the run's own name for it.

    Raises:
        ConfigError: there is no such adapter, or it is not the one that the journal names.
    """
    if number is not None and best:
        raise ConfigError("--round and --best both choose a round. Give one of them.")
    if (target / "journal.jsonl").is_file():
        return _of_run(Run.read(target), number, best, public)
    if number is not None or best:
        raise ConfigError(
            f"{target} is no run folder, so there are no rounds to choose from: leave --round and --best out."
        )
    folder = target.resolve()
    if (folder.parent.parent / "journal.jsonl").is_file() and folder.name.isdigit():
        return _of_run(Run.read(folder.parent.parent), int(folder.name), False, public)
    if not (folder / SCHEMA).is_file():
        raise ConfigError(f"{target} is neither a run folder nor an adapter of fedgrpo: it holds no {SCHEMA}.")
    described = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    name, revision = str(described.get("base_model_name_or_path") or ""), str(described.get("revision") or "")
    if (folder / BASE).is_dir():  # an export that brings a built-in base model: it is known by its name
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        name = str(record["base_model"])
    return Source(read_peft(folder), _base(name, revision, public))


def _of_run(run: Run, number: int | None, best: bool, public: str) -> Source:
    committed = {line["round"]: str(line["adapter"]) for line in run.journal if line["event"] == "COMMITTED"}
    if not committed:
        raise ConfigError(f"{run.folder} has no committed round yet, so there is nothing to export.")
    chosen = _best(run, committed) if best else max(committed) if number is None else number
    if chosen not in committed:
        raise ConfigError(f"Round {chosen} of {run.folder} was not committed. The rounds are 1 to {max(committed)}.")
    adapter = read_peft(Store(run.folder).adapter_folder(chosen))
    if adapter.sha256 != committed[chosen]:
        raise ConfigError(f"The adapter of round {chosen} in {run.folder} is not the one in the journal.")
    return Source(adapter, _base(run.config.model.name, run.config.model.revision, public), run, chosen, best)


def _best(run: Run, committed: dict[int, str]) -> int:
    scored = [(score(e.total).strict, -e.round) for e in run.sampled if e.round in committed and e.total.problems]
    if not scored:
        raise ConfigError(f"{run.folder} has no held-out accuracy after any round, so none is the best. Use --round.")
    return -max(scored)[1]


def _base(name: str, revision: str, public: str) -> BaseModel:
    """The base model; a folder of this machine is known to others by its last part only."""
    is_path = name not in BUILT_IN and (name.startswith((".", "/", "~")) or name.count("/") > 1 or Path(name).exists())
    known = Path(name).expanduser().name if is_path else name
    return BaseModel(name, "" if is_path else revision, public or known or "unknown")
