"""The adapter to export: one round's adapter of a run folder, or an adapter folder. No torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ...client.learner.models.registry import PUBLISHED
from ...common.adapter.adapter import Adapter
from ...common.adapter.peft_files import BASE, CONFIG, SCHEMA, read_peft
from ...common.errors import ConfigError
from ...common.settings.run_config import RunConfig
from ...server.run.locate import locate_adapter
from ...server.run.reader import Run
from .output_folder import RECORD

BUILT_IN = ("builtin", "builtin-split")


@dataclass(frozen=True, slots=True)
class BaseModel:
    """The base model of an adapter."""

    name: str
    """Its name in the run: a built-in one, a Hub name, or a local folder."""
    revision: str
    public: str
    """The name by which others know it; never a path."""

    @property
    def built_in(self) -> bool:
        """Whether it is included in fedgrpo."""
        return self.public in BUILT_IN

    @property
    def on_hub(self) -> bool:
        """Whether the public name is a Hub name."""
        return not self.built_in and self.public.count("/") == 1


@dataclass(frozen=True, slots=True)
class Source:
    """An adapter and its origin."""

    adapter: Adapter
    base: BaseModel
    run: Run | None = None
    """The run that trained it; None if only its folder is available."""
    round: int | None = None
    best: bool = False
    """Whether the round was selected by its held-out accuracy."""

    @property
    def config(self) -> RunConfig | None:
        """The run's settings."""
        return self.run.config if self.run else None

    @property
    def base_sha256(self) -> str:
        """Hash of the base model's files that all clients agreed on; empty without a journal."""
        created = self.run.journal.created if self.run else None
        return created.base_model if created else ""


def locate(target: Path, number: int | None, best: bool, public: str = "") -> Source:
    """Return the adapter that `target` names.

    Args:
        target: a run folder, `RUN/adapters/NUMBER`, or another folder with an adapter of fedgrpo.
        number: the round; None uses the last committed one.
        best: use the committed round with the highest held-out accuracy.
        public: the name by which others know the base model; empty derives it from the run's name for it.

    Raises:
        ConfigError: the adapter does not exist, is not one of fedgrpo, or differs from the one in the journal.
    """
    located = locate_adapter(target, number, best=best)
    run, folder = located.run, located.folder
    if run is not None and located.round is not None:
        if not located.round:
            raise ConfigError(f"Round 0 of {run.folder} was not committed: it is the untrained start of the run.")
        adapter = read_peft(folder)
        if adapter.sha256 != run.journal.adapters[located.round]:
            raise ConfigError(f"The adapter of round {located.round} in {run.folder} is not the one in the journal.")
        base = _base(run.config.model.name, run.config.model.revision, public)
        return Source(adapter, base, run, located.round, best)
    if not (folder / SCHEMA).is_file():
        raise ConfigError(f"{target} is a PEFT adapter, but not one of fedgrpo: {SCHEMA} is missing.")
    described = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    name, revision = str(described.get("base_model_name_or_path") or ""), str(described.get("revision") or "")
    if (folder / BASE).is_dir():  # an export that brings a built-in base model: it is known by its name
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        name = str(record["base_model"])
    return Source(read_peft(folder), _base(name, revision, public))


def _base(name: str, revision: str, public: str) -> BaseModel:
    """Return the base model; others know a local folder by its last part only, a fetched model by the Hub's name."""
    is_path = name not in BUILT_IN and (name.startswith((".", "/", "~")) or name.count("/") > 1 or Path(name).exists())
    known = Path(name).expanduser().name if is_path else PUBLISHED[name].hub if name in PUBLISHED else name
    return BaseModel(name, "" if is_path else revision, public or known or "unknown")
