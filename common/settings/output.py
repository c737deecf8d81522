"""The settings of where a run is written."""

from __future__ import annotations

from dataclasses import dataclass

from ..trackers.names import Use, read_uses


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Where a run is written, and which trackers it uses."""

    dir: str = "runs"
    """Folder that contains the run folders."""
    run: str = ""
    """Name of this run's folder; empty builds one from scenario, date and time. An existing run is resumed."""
    nodes: str = ""
    """File that assigns nodes to organisations (`fedgrpo keys register` writes it): no other node may take part, and
    none under another's name. Without it every node may choose its name."""
    manifest: str = ""
    """The federation's manifest, for secure aggregation and the round log; empty takes the one in the run folder of a
    simulation."""
    identity: str = ""
    """The server's private identity key: with it and the manifest, the run has a signed round log that members can
    check (docs/audit.md)."""
    keep_updates: bool = False
    """Whether to keep each update as it arrived, so that the aggregate can be computed again (`fedgrpo audit verify`).
    Not in secure aggregation, where the server sees none."""
    trackers: str = ""
    """Trackers of metrics.jsonl: `tensorboard`, `wandb`, `trackio`, `mlflow`, separated by commas. Each stays on this
    machine, unless an address says where it sends: `wandb=https://api.wandb.ai`. Tokens come from the environment."""

    def __post_init__(self) -> None:
        read_uses("output.trackers", self.trackers)

    @property
    def tracker_uses(self) -> tuple[Use, ...]:
        """Return the trackers of `trackers`, parsed."""
        return read_uses("output.trackers", self.trackers)
