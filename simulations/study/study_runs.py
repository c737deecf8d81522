"""The runs of a study: one ordinary run each, in its own folder, which also holds its state."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from ...common.errors import ConfigError
from ...common.settings.run_config import RunConfig, load_scenario
from ...common.storage.atomic import write_atomic
from ...server.run.journal import Journal
from ...server.run.layout import RunFolder
from ...server.run.lock import is_busy
from ..engine.start import start_named
from .arms import is_local
from .study_file import Study

NEW, UNFINISHED, BUSY, FINISHED = "new", "unfinished", "busy", "finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRun:
    """One run of a study: an arm with a seed, and for local kinds one client."""

    arm: str
    seed: int
    client: int | None
    config: RunConfig
    """The settings that its journal records: those of the study, with the taught model as the base model."""
    of_study: RunConfig
    """The settings as the study has them."""
    root: Path
    """The study's folder."""

    @property
    def run(self) -> str:
        """Name of its run folder."""
        return f"seed-{self.seed}" + ("" if self.client is None else f"-client-{self.client}")

    @property
    def name(self) -> str:
        """Arm and run, for display."""
        return f"{self.arm}/{self.run}"

    @property
    def folder(self) -> Path:
        """Its run folder."""
        return self.root / "runs" / self.arm / self.run

    @property
    def log(self) -> Path:
        """Log of its process."""
        return self.root / "logs" / self.arm / f"{self.run}.log"

    @property
    def scenario(self) -> Path:
        """The scenario file it runs from."""
        return self.root / "scenarios" / self.arm / f"{self.run}.toml"

    @property
    def work(self) -> int:
        """Cost, as far as it is known beforehand: passes over a batch."""
        clients = len(self.config.simulation.taking_part)
        return clients * self.config.total_steps * self.config.grpo.gradient_accumulation_steps

    @property
    def files(self) -> RunFolder:
        """The files of its run folder."""
        return RunFolder(self.folder)

    @property
    def journal(self) -> Journal:
        """The journal of its run; empty where none has begun."""
        return Journal.read(self.files.journal)

    @property
    def round(self) -> int:
        """Rounds committed."""
        return self.journal.round

    def own_config(self) -> RunConfig:
        """Return its settings with its output folder."""
        return self.config.with_values({"output.dir": str(self.folder.parent), "output.run": self.run})

    def state(self) -> str:
        """Return `new`, `unfinished`, `busy` (another process is working on it) or `finished`.

        Raises:
            ConfigError: it has other settings; names them, and what to do.
        """
        journal = self.journal
        if not journal.lines:
            return BUSY if is_busy(self.folder) else NEW
        if journal.created is None or journal.created.config != self.config.sha256:
            raise ConfigError(
                f"{self.folder} was played with other settings than the study has now{self._changes()}. Put the "
                "settings back, remove that folder to play it again, or give another folder with --out."
            )
        if journal.finished:
            return FINISHED
        return BUSY if is_busy(self.folder) else UNFINISHED

    def command(self) -> list[str]:
        """Return the command that runs or resumes it. Writes the scenario file if needed."""
        program = [sys.executable, "-m", "fedgrpo.common.cli.main", "simulate"]
        always = ["--workers=1", "--format=json"]
        if self.journal.lines:
            return [*program, "--resume", str(self.folder), *always]
        self.files.inputs.unlink(missing_ok=True)  # of a run that never started
        self.scenario.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.scenario, self.config.to_toml().encode())
        return [*program, str(self.scenario), "--out", str(self.folder.parent), "--run", self.run, *always]

    def _changes(self) -> str:
        current = self.config.flat()
        try:
            earlier = load_scenario(self.files.settings).flat()
        except ConfigError:
            return ""
        changed = [
            key
            for key in current
            if current[key] != earlier[key] and not key.startswith(("output.", "simulation.work"))
        ]
        changes = ", ".join(f"{key} was {earlier[key]!r} and is {current[key]!r}" for key in changed)
        return f": {changes}" if changes else ", by another version of fedgrpo"


def study_runs_of(study: Study, root: Path) -> list[StudyRun]:
    """Return all runs, seed by seed, so that an interrupted study has complete seeds to compare."""
    return [
        StudyRun(
            arm=arm.name,
            seed=seed,
            client=config.simulation.only if is_local(arm.kind) else None,
            config=start_named(config),
            of_study=config,
            root=root,
        )
        for seed in study.seeds
        for arm in study.arms
        for config in arm.runs[seed]
    ]
