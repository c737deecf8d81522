"""`fedgrpo.Run`: a run folder as a notebook wants it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...common.adapter.adapter import Adapter
from ...common.analysis.scores import score
from ...common.errors import ConfigError
from ...common.settings.run_config import RunConfig
from ...common.storage.jsonl import read_lines
from ...server.run import reader
from ...server.run.layout import RunFolder
from ...server.run.lines import as_entry
from ..export.peft_folder import write_adapter
from ..export.source import Source, locate


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Strict accuracy over the held-out problems, sampled at `evaluation.temperature`; shares from 0 to 1."""

    before: float
    """Of the base model, on the same problems."""
    after: float
    """With the adapter of the last evaluated round."""
    interval: tuple[float, float]
    """95 % interval of the gain, paired by problem."""
    problems: int
    greedy_before: float | None = None
    greedy_after: float | None = None

    @property
    def gain(self) -> float:
        """Return the difference that the interval is about."""
        return self.after - self.before

    def __str__(self) -> str:
        low, high = (f"{100 * bound:+.1f}" for bound in self.interval)
        return (
            f"{self.before:.1%} -> {self.after:.1%} ({100 * self.gain:+.1f} points, 95 % interval {low} to {high}; "
            f"{self.problems} held-out problems, sampled, strict)"
        )


@dataclass(frozen=True, slots=True)
class TrainedAdapter:
    """The global adapter after one round."""

    source: Source

    @property
    def vector(self) -> Any:
        """Return the adapter's trained factors as one float32 vector (`schema.size`,), laid out by its schema."""
        return self._adapter.vector

    @property
    def sha256(self) -> str:
        """Return the hash by which the run's journal knows the adapter."""
        return self._adapter.sha256

    def to_peft(self, folder: str | Path) -> Path:
        """Write the adapter in PEFT's format, which `PeftModel.from_pretrained` opens on the base model.

        Raises:
            ConfigError: the folder exists and is not empty.
        """
        path = Path(folder).expanduser()
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ConfigError(f"{path} exists and is not an empty folder. Give another one.")
        path.mkdir(parents=True, exist_ok=True)
        write_adapter(self._adapter, self.source.base, path)
        return path

    def __repr__(self) -> str:
        return f"TrainedAdapter(round={self.source.round}, sha256={self.sha256[:12]!r})"

    @property
    def _adapter(self) -> Adapter:
        return self.source.adapter


class Run:
    """A run folder: settings, metrics, accuracy, samples and adapters, as far as the run has got.

    run = fedgrpo.Run("runs/builtin-20260101-120000")

    Reading changes nothing in the folder.
    """

    def __init__(self, folder: str | Path) -> None:
        """Read a run folder, of a simulation or of a deployment's server.

        Raises:
            ConfigError: it is not a run folder.
        """
        self._run = reader.Run.read(Path(folder).expanduser())

    @property
    def folder(self) -> Path:
        """Return the run's folder."""
        return self._run.folder

    @property
    def config(self) -> RunConfig:
        """Return the run's settings; `run.config.flat()` gives them by name."""
        return self._run.config

    @property
    def accuracy(self) -> Accuracy | None:
        """Return the held-out accuracy before and after; None before the first evaluation."""
        if not self._run.sampled:
            return None
        after, greedy = score(self._run.after.total), [score(e.total).strict for e in self._run.greedy]
        return Accuracy(
            before=after.base,
            after=after.strict,
            interval=(after.gain_low, after.gain_high),
            problems=after.problems,
            greedy_before=greedy[0] if greedy else None,
            greedy_after=greedy[-1] if len(greedy) > 1 else None,
        )

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Return one row per committed round and client: `round`, `client`, and the metrics by name.

        `pandas.DataFrame(run.metrics)` makes a table of them.
        """
        return list(self._rows())

    @property
    def samples(self) -> list[dict[str, Any]]:
        """Return held-out completions before and after training, as far as the clients' policies allow."""
        return list(read_lines(RunFolder(self.folder).samples))

    @property
    def adapter(self) -> TrainedAdapter:
        """Return the global adapter of the last committed round."""
        return self.adapter_after()

    def adapter_after(self, round_number: int | None = None) -> TrainedAdapter:
        """Return the global adapter of a round, by default of the last committed one.

        Raises:
            ConfigError: the round was not committed.
        """
        return TrainedAdapter(locate(self.folder, round_number, best=False))

    def report(self) -> Path:
        """Write report.html into the run's folder, and return its path."""
        from ..report.html import write_report

        return write_report(self._run)

    def result(self) -> dict[str, Any]:
        """Return the object that `fedgrpo simulate --format json` prints last."""
        return self._run.result()

    def __repr__(self) -> str:
        done = f"{len(self._run.rounds)} of {self.config.federation.rounds} rounds"
        return f"Run({str(self.folder)!r}: {done}, held-out accuracy {self.accuracy or 'not evaluated yet'})"

    def _rows(self) -> Iterator[dict[str, Any]]:
        for line in self._run.rounds:
            for client, metrics in line.clients.items():
                yield {"round": line.round, "client": client, **as_entry(metrics)}
