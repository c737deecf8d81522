"""The writer of a run folder. It appends or replaces atomically, so any crash leaves a run that can be resumed.

config.resolved.toml   every setting, also the defaults
journal.jsonl          CREATED, then per attempt PLANNED -> COMMITTED | VOID, and WARNED by a tripwire, at last FINISHED
metrics.jsonl          one line per committed round and per evaluation
adapters/0003/         the global adapter after round 3, in PEFT's format
inbox/                 updates of the round under way
updates/0003/          updates of round 3 as they arrived, with output.keep-updates

`layout` has the names, `journal` and `metrics` the lines.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import time
from pathlib import Path

import safetensors.numpy

from ...common.adapter.adapter import Adapter
from ...common.adapter.peft_files import read_peft, write_peft
from ...common.adapter.schema import Vector
from ...common.errors import ConfigError, RunError
from ...common.settings.run_config import RunConfig, load_scenario
from ...common.storage.atomic import write_atomic
from ...common.storage.jsonl import append_line, as_line
from ..aggregation.state import Memory, State
from .journal import FORMAT, Committed, Created, Journal, JournalLine, Resumed, Void, append
from .layout import RunFolder
from .metrics import MetricsLine, RoundMetrics, metrics_entry, read_metrics
from .vector_file import VectorFile


class Store:
    """Writes one run folder, and reads back the state that a resumed run begins with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = RunFolder(folder)

    @property
    def is_new(self) -> bool:
        """Return whether the folder has no run yet."""
        return not self.files.begun

    def create(self, config: RunConfig, federation: str, adapter: Adapter, base_model_sha256: str) -> State:
        """Start a run: write its settings and its first adapter."""
        self.save_config(config)
        self._write_adapter(0, adapter, config.model.name)
        self.log(
            Created(
                format=FORMAT,
                federation=federation,
                base_model=base_model_sha256,
                config=config.sha256,
                schema=adapter.schema.sha256,
                adapter=adapter.sha256,
            )
        )
        return State(federation=federation, base_model_sha256=base_model_sha256, round=0, adapter=adapter)

    def save_config(self, config: RunConfig) -> None:
        """Write every setting, also the defaults."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.files.settings
        write_atomic(path, config.to_toml().encode())
        if load_scenario(path) != config:
            raise ConfigError(f"{path} does not read back as it was written. A setting holds odd characters.")

    def recover(self, config: RunConfig) -> State:
        """Return the state after the last committed round whose adapter is whole. Changes nothing in the folder.

        Raises:
            ConfigError: the run was made with other settings.
            RunError: no adapter in the folder is whole, or the journal is damaged.
        """
        journal = Journal.read(self.files.journal)
        created = journal.created
        if created is None:
            raise RunError(f"{self.files.journal} has no beginning. Start a new run.")
        if created.config != config.sha256:
            raise ConfigError(
                f"{self.folder} was made with other settings. Resume it with its own {self.files.settings.name}, "
                "or with the version of fedgrpo that made it, or start a new run."
            )
        beginning = Committed(round=0, attempt=0, adapter=created.adapter, positions={}, strikes={})
        for line in [*reversed(journal.of(Committed)), beginning]:
            with contextlib.suppress(ConfigError):
                return self._state_after(line, created, journal)
        raise RunError(f"No adapter in {self.files.adapters} is whole, so there is nothing to go on from.")

    def state_at(self, number: int) -> State:
        """Return the state after a committed round, or before the first one (0).

        Raises:
            ConfigError: the round was not committed, or its adapter is not the one in the journal.
        """
        journal = Journal.read(self.files.journal)
        lines = [line for line in journal.of(Committed) if line.round == number]
        if journal.created is None or (number and not lines):
            raise ConfigError(f"round {number} is not in the journal of {self.folder}")
        beginning = Committed(round=0, attempt=0, adapter=journal.created.adapter, positions={}, strikes={})
        return self._state_after(lines[-1] if lines else beginning, journal.created, journal)

    def resume(self, state: State) -> None:
        """Make the folder what it was after the state's round, in the present format, and journal that it goes on.

        Metrics of rounds that do not count are dropped.
        """
        kept = [line for line in read_metrics(self.files.metrics) if line.round <= state.round]
        write_atomic(self.files.metrics, b"".join(as_line(metrics_entry(line)) for line in kept))
        self.log(Resumed(round=state.round, format=FORMAT))

    def commit(self, state: State, metrics: RoundMetrics, base_model: str) -> None:
        """Make a round's result durable: adapter, then metrics, then the journal line that makes it count."""
        self._write_adapter(state.round, state.adapter, base_model)
        memory = self._write_memory(state)
        self.add_metrics(metrics)
        self.log(
            Committed(
                round=state.round,
                attempt=metrics.attempt,
                adapter=state.adapter.sha256,
                positions=dict(sorted(state.positions.items())),
                strikes=state.strikes,
                counted=state.counted,
                rewards=state.rewards,
                median_norm=state.median_norm,
                memory=memory,
                members=metrics.members,
            )
        )
        shutil.rmtree(self.files.inbox, ignore_errors=True)
        shutil.rmtree(self.files.sums, ignore_errors=True)

    def stopped(self, reason: str) -> None:
        """Leave word of why the run ended without finishing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self.files.stopped, as_line({"time": round(time.time(), 3), "reason": reason}))

    def log(self, line: JournalLine) -> None:
        """Append a line to the journal, with the time, and flush it to the disk."""
        append(self.files.journal, line, time.time())

    def add_metrics(self, line: MetricsLine) -> None:
        """Append a line to the metrics."""
        append_line(self.files.metrics, metrics_entry(line))

    def keep_update(self, organisation: str, delta: Vector) -> None:
        """Put an update aside until the round is aggregated: memory must not grow with the number of clients."""
        self.files.inbox.mkdir(exist_ok=True)
        self.files.update(organisation).write_bytes(delta.astype("<f4", copy=False).tobytes())

    def keep_arrived(self, number: int, organisation: str, data: bytes) -> None:
        """Keep an update as it arrived, for who computes the aggregate again; a later attempt at the round replaces
        it."""
        path = self.files.kept(number, organisation)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def kept_update(self, organisation: str) -> VectorFile:
        """Return what `keep_update` stored, as a vector that is read from disk in slices."""
        return VectorFile(self.files.update(organisation))

    def _state_after(self, line: Committed, created: Created, journal: Journal) -> State:
        """Return the state that a line of the journal committed.

        Raises:
            ConfigError: the adapter or the memory is not the one in the journal.
        """
        adapter = read_peft(self.files.adapter(line.round))
        if adapter.sha256 != line.adapter:
            raise ConfigError(f"the adapter of round {line.round} is not the one in the journal")
        start = journal.lines.index(line) + 1 if line in journal.lines else 1
        after = Journal(journal.lines[start:])
        voids = [void for void in after.of(Void) if void.round == line.round + 1]
        used = voids[-1].positions if voids else None  # a round that the gate voids has used prompts
        return State(
            federation=created.federation,
            base_model_sha256=created.base_model,
            round=line.round,
            adapter=adapter,
            positions=line.positions if used is None else used,
            strikes=line.strikes,
            voids=len(voids),
            counted=line.counted,
            rewards=line.rewards,
            median_norm=line.median_norm,
            memory=self._read_memory(line.round, line.memory),
        )

    def _write_memory(self, state: State) -> str:
        """Write what the server carries besides the adapter, and return its SHA-256; empty where there is nothing."""
        if not state.memory:
            return ""
        data = safetensors.numpy.save(dict(sorted(state.memory.items())))
        write_atomic(self.files.memory(state.round), data)
        return hashlib.sha256(data).hexdigest()

    def _read_memory(self, number: int, sha256: str) -> Memory:
        if not sha256:
            return {}
        path = self.files.memory(number)
        data = path.read_bytes() if path.exists() else b""
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ConfigError(f"{path} is not the one in the journal")
        return safetensors.numpy.load(data)  # pyright: ignore[reportUnknownMemberType]

    def _write_adapter(self, number: int, adapter: Adapter, base_model: str) -> None:
        is_path = Path(base_model).exists()
        write_peft(adapter, self.files.adapter(number), Path(base_model).name if is_path else base_model)
