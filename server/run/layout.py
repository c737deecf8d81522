"""Names of the files in a run folder. Every other module asks for them here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SAMPLES, ANSWERS = "samples.jsonl", "answers.jsonl"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The paths of one run folder. Looking them up creates nothing."""

    path: Path

    @property
    def settings(self) -> Path:
        """Return the file of all settings, defaults included."""
        return self.path / "config.resolved.toml"

    @property
    def journal(self) -> Path:
        """Return the journal, one line per event (`run.journal`)."""
        return self.path / "journal.jsonl"

    @property
    def metrics(self) -> Path:
        """Metrics of rounds and evaluations (`run.metrics`)."""
        return self.path / "metrics.jsonl"

    @property
    def audit(self) -> Path:
        """Return the round log, signed, one record per attempt at a round (docs/audit.md)."""
        return self.path / "audit.jsonl"

    @property
    def updates(self) -> Path:
        """Return the folder of updates that were kept, as they arrived (output.keep-updates)."""
        return self.path / "updates"

    def kept(self, number: int, organisation: str) -> Path:
        """Return an organisation's update of a round that was kept."""
        return self.updates / f"{number:04d}" / f"{organisation}.bin"

    def client(self, name: str) -> Path:
        """Return the folder that a simulated client keeps its own files in."""
        return self.path / "clients" / name

    @property
    def begun(self) -> bool:
        """Return whether a run has started here."""
        return self.journal.exists()

    @property
    def adapters(self) -> Path:
        """Return the folder of the adapters, one sub-folder per committed round in PEFT's format."""
        return self.path / "adapters"

    def adapter(self, number: int) -> Path:
        """Return the folder of the global adapter after round `number`."""
        return self.adapters / f"{number:04d}"

    def memory(self, number: int) -> Path:
        """Return what the server carries besides the adapter after round `number`."""
        return self.adapter(number) / "server_memory.safetensors"

    @property
    def inbox(self) -> Path:
        """Updates of the round under way."""
        return self.path / "inbox"

    def update(self, organisation: str) -> Path:
        """Return an organisation's update in the inbox: little-endian float32."""
        return self.inbox / f"{organisation}.f4"

    @property
    def manifest(self) -> Path:
        """Return the manifest of a simulated federation. A real one's is in the server's folder."""
        return self.path / "manifest.toml"

    @property
    def server_identity(self) -> Path:
        """Return the private identity key of a simulated federation's server."""
        return self.path / "server.identity"

    @property
    def sums(self) -> Path:
        """Sums under way."""
        return self.path / "sums"

    def sum(self, label: str) -> Path:
        """Return the folder of a sum under way."""
        return self.sums / label

    @property
    def lock(self) -> Path:
        """Locked by the process at work in the folder (`run.lock`)."""
        return self.path / ".lock"

    @property
    def stopped(self) -> Path:
        """Return the file with the reason why a ServerApp gave up; a crash does not leave one."""
        return self.path / "stopped.json"

    @property
    def trackers(self) -> Path:
        """Return the trackers' folder: their files, and how far each has got."""
        return self.path / "trackers"

    @property
    def inputs(self) -> Path:
        """SHA-256 of a simulation's data and rewards."""
        return self.path / "inputs.sha256"

    @property
    def samples(self) -> Path:
        """Some held-out completions of simulated clients, before and after."""
        return self.path / SAMPLES

    @property
    def answers(self) -> Path:
        """Return the file of which held-out problems simulated clients answered correctly."""
        return self.path / ANSWERS

    @property
    def report(self) -> Path:
        """Return the report of a simulation."""
        return self.path / "report.html"

    @property
    def canaries(self) -> Path:
        """Return the file of a simulation's canaries, and whether each was trained on."""
        return self.path / "canaries.jsonl"

    @property
    def loopback(self) -> Path:
        """Server and organisations of a simulation in real processes."""
        return self.path / "loopback"

    @property
    def model(self) -> Path:
        """Return the folder of the model that `finetune` trained."""
        return self.path / "model"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints of `finetune`."""
        return self.path / "checkpoints"
