"""A run's folder: journal, metrics, adapters. Append-only or atomic, so any crash leaves a run that can go on.

config.resolved.toml   every setting, also the defaults
journal.jsonl          CREATED, then per attempt PLANNED -> COMMITTED | VOID, and WARNED by a tripwire, at last FINISHED
metrics.jsonl          one line per committed round and per evaluation
adapters/0003/         the global adapter after round 3, in PEFT's format
inbox/                 updates of the round under way
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import shutil
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import IO, Any, cast

import safetensors.numpy

from ...common.adapter.adapter import Adapter
from ...common.adapter.peft_files import read_peft, write_peft
from ...common.adapter.schema import Vector
from ...common.errors import ConfigError, RunError
from ...common.settings.run_config import RunConfig, load_scenario
from ...common.storage.atomic import write_atomic
from ...common.storage.jsonl import Entry, append_line, as_line, read_lines
from ..aggregation.state import Memory, State
from .vector_file import VectorFile

LOCK_PATIENCE_S = 1.0
MEMORY_FILE = "server_memory.safetensors"
STOPPED_FILE = "stopped.json"
"""In a run folder: why a ServerApp gave up. What a crash leaves behind has none."""


class BusyError(RunError):
    """Another process is at work in the run's folder."""


class Store:
    """Reads and writes one run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = folder / "journal.jsonl"
        self.metrics = folder / "metrics.jsonl"

    @contextlib.contextmanager
    def locked(self) -> Generator[None]:
        """Keep every other process out of this run while the block runs.

        Raises:
            BusyError: another process is at work in it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as file:
            deadline = time.monotonic() + LOCK_PATIENCE_S
            while not _lock(file):  # whoever looks whether the run is under way holds the lock for a moment
                if time.monotonic() > deadline:
                    raise BusyError(f"Another process is at work in {self.folder}. Wait for it, or end it.")
                time.sleep(0.05)
            yield

    @property
    def is_new(self) -> bool:
        """Whether nothing has been journalled here."""
        return not self.journal.exists()

    def create(self, config: RunConfig, federation: str, adapter: Adapter, base_model_sha256: str) -> State:
        """Start a run: write its settings and its first adapter."""
        self.save_config(config)
        self._write_adapter(0, adapter, config.model.name)
        self.log(
            "CREATED",
            federation=federation,
            base_model=base_model_sha256,
            config=config.sha256,
            schema=adapter.schema.sha256,
            adapter=adapter.sha256,
        )
        return State(federation=federation, base_model_sha256=base_model_sha256, round=0, adapter=adapter)

    def save_config(self, config: RunConfig) -> None:
        """Write every setting, also the defaults."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "config.resolved.toml"
        write_atomic(path, config.to_toml().encode())
        if load_scenario(path) != config:
            raise ConfigError(f"{path} does not read back as it was written. A setting holds odd characters.")

    def recover(self, config: RunConfig) -> State:
        """The state after the last committed round whose adapter is whole.

        Raises:
            ConfigError: the run was made with other settings.
            RunError: no adapter in the folder is whole.
        """
        entries = read_lines(self.journal)
        if not entries or entries[0].get("event") != "CREATED":
            raise RunError(f"{self.journal} has no beginning. Start a new run.")
        created = entries[0]
        if created.get("config") != config.sha256:
            raise ConfigError(
                f"{self.folder} was made with other settings. Resume it with its own config.resolved.toml, "
                "or start a new run."
            )
        committed = [e for e in entries if e.get("event") == "COMMITTED"]
        beginning: Entry = {**created, "round": 0, "positions": {}, "strikes": {}}
        for entry in [*reversed(committed), beginning]:
            with contextlib.suppress(ConfigError):
                return self._restore(created, entry, entries)
        raise RunError(f"No adapter in {self.folder / 'adapters'} is whole, so there is nothing to go on from.")

    def _restore(self, created: Entry, entry: Entry, entries: list[Entry]) -> State:
        number = entry["round"]
        assert isinstance(number, int)
        adapter = read_peft(self.adapter_folder(number))
        if adapter.sha256 != entry["adapter"]:
            raise ConfigError(f"the adapter of round {number} is not the one in the journal")
        after = entries[entries.index(entry) + 1 :] if entry in entries else entries[1:]
        voids = [e for e in after if e.get("event") == "VOID" and e.get("round") == number + 1]
        keep = [line for line in read_lines(self.metrics) if _round_of(line) <= number]
        write_atomic(self.metrics, b"".join(as_line(line) for line in keep))
        last = voids[-1] if voids else entry  # a round that the gate voids has used prompts
        return State(
            federation=str(created["federation"]),
            base_model_sha256=str(created["base_model"]),
            round=number,
            adapter=adapter,
            positions=_counts(last.get("positions", entry["positions"])),
            strikes=_counts(entry["strikes"]),
            voids=len(voids),
            counted={name: (pair[0], pair[1]) for name, pair in _table(entry, "counted").items()},
            rewards={name: tuple(values) for name, values in _table(entry, "rewards").items()},
            median_norm=float(cast(float, entry.get("median_norm", 0.0))),
            memory=self._read_memory(number, str(entry.get("memory", ""))),
        )

    def commit(self, state: State, attempt: int, metrics: Mapping[str, object], base_model: str) -> None:
        """Make a round's result durable: adapter, then metrics, then the journal line that makes it count."""
        self._write_adapter(state.round, state.adapter, base_model)
        memory = self._write_memory(state)
        self.add_metrics({"kind": "round", "round": state.round, **metrics})
        self.log(
            "COMMITTED",
            round=state.round,
            attempt=attempt,
            adapter=state.adapter.sha256,
            positions=dict(sorted(state.positions.items())),
            strikes=state.strikes,
            counted=state.counted,
            rewards=state.rewards,
            median_norm=state.median_norm,
            memory=memory,
        )
        shutil.rmtree(self.folder / "inbox", ignore_errors=True)

    def stopped(self, reason: str) -> None:
        """Leave word of why the run ended without finishing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self.folder / STOPPED_FILE, as_line({"time": round(time.time(), 3), "reason": reason}))

    def log(self, event: str, **facts: object) -> None:
        """Append a line to the journal and flush it to the disk."""
        append_line(self.journal, {"time": round(time.time(), 3), "event": event, **facts})

    def add_metrics(self, line: Mapping[str, object]) -> None:
        """Append a line to the metrics."""
        append_line(self.metrics, line)

    def keep_update(self, organisation: str, delta: Vector) -> None:
        """Put an update aside until the round's fold, so that memory does not grow with the number of clients."""
        inbox = self.folder / "inbox"
        inbox.mkdir(exist_ok=True)
        (inbox / f"{organisation}.f4").write_bytes(delta.astype("<f4", copy=False).tobytes())

    def kept_update(self, organisation: str) -> VectorFile:
        """What `keep_update` put aside. It stays on the disk, and what is looked at is read."""
        return VectorFile(self.folder / "inbox" / f"{organisation}.f4")

    def adapter_folder(self, number: int) -> Path:
        """Where the global adapter after round `number` lies."""
        return self.folder / "adapters" / f"{number:04d}"

    def _write_memory(self, state: State) -> str:
        """Write what the server carries besides the adapter, and return its SHA-256; empty where there is nothing."""
        if not state.memory:
            return ""
        data = safetensors.numpy.save(dict(sorted(state.memory.items())))
        write_atomic(self.adapter_folder(state.round) / MEMORY_FILE, data)
        return hashlib.sha256(data).hexdigest()

    def _read_memory(self, number: int, sha256: str) -> Memory:
        if not sha256:
            return {}
        path = self.adapter_folder(number) / MEMORY_FILE
        data = path.read_bytes() if path.exists() else b""
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ConfigError(f"{path} is not the one in the journal")
        return safetensors.numpy.load(data)  # pyright: ignore[reportUnknownMemberType]

    def _write_adapter(self, number: int, adapter: Adapter, base_model: str) -> None:
        is_path = Path(base_model).exists()
        write_peft(adapter, self.adapter_folder(number), Path(base_model).name if is_path else base_model)


def _lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _counts(value: object) -> dict[str, int]:
    return {str(name): int(count) for name, count in cast(dict[str, int], value).items()}


def _table(entry: Entry, key: str) -> dict[str, list[Any]]:
    return cast(dict[str, list[Any]], entry.get(key, {}))


def _round_of(line: Entry) -> int:
    number = line.get("round")
    return number if isinstance(number, int) else 0
