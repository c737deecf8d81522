"""The metrics of a run, metrics.jsonl: one typed line per committed round and per evaluation, written and read here.

A metric is written as `area/name`. Format 1 had names without an area for those of the server; both are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from ...common.analysis.scores import score
from ...common.messages.messages import Tally
from ...common.storage.jsonl import Entry
from .lines import OTHERS, as_entry, metric, parsed, read_typed


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientMetrics:
    """One client's part in a committed round."""

    share: float = metric("update/share", "share")
    """What its update counted; the shares of a round sum to 1."""
    steps: int = metric("update/steps", "steps", 0)
    examples: int = metric("update/examples", "examples", 0)
    """Prompts trained on."""
    norm: float = metric("update/norm", "norm", 0.0)
    clipped: bool = metric("update/clipped", "clipped", False)
    capped: bool = metric("update/capped", "capped", False)
    """Whether its weight was cut down to `aggregation.max-share`."""
    bytes_up: int = metric("update/bytes-up", "bytes_up", 0)
    bytes_down: int = metric("update/bytes-down", "bytes_down", 0)
    reported: dict[str, float] = field(default_factory=dict[str, float], metadata=OTHERS)
    """What it reported: TRAIN_METRICS and its rewards, as far as its policy lets them out."""

    @property
    def reward(self) -> float | None:
        """Return its mean reward, in its own units; None if it does not report one."""
        return self.reported.get("reward/mean")


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundMetrics:
    """One committed round."""

    round: int
    attempt: int = 1
    seconds: float = metric("round/seconds", "seconds")
    bytes_up: int = metric("round/bytes-up", "bytes_up")
    """Of all clients whose updates were valid."""
    bytes_down: int = metric("round/bytes-down", "bytes_down")
    update_norm: float = metric("round/update-norm", "update_norm")
    """L2 norm of the change of the global adapter."""
    aggregation_error: float | None = metric("aggregation/error", "aggregation/error", None)
    refused: dict[str, str] = field(default_factory=dict[str, str])
    """Organisation -> code."""
    clients: dict[str, ClientMetrics]
    """By organisation: the updates that were valid. Of a sum one line, `(sum)`, with means over its members."""
    members: tuple[str, ...] = metric("sum/members", "sum/members", ())
    """Of a sum: whose updates are in it."""
    step_seconds: dict[str, float] = field(
        default_factory=dict[str, float], metadata={"keys": ("sum/step-seconds", "sum/step-seconds")}
    )
    """Of a sum: seconds by step."""

    @property
    def rewards(self) -> list[float]:
        """Return the mean rewards of the clients that report one, each in its own units."""
        return [client.reward for client in self.clients.values() if client.reward is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationMetrics:
    """Counts over the held-out problems, answered with the adapter after some round."""

    round: int
    """0 is before training."""
    decoding: str
    """`sampled` or `greedy`."""
    clients: tuple[str, ...]
    """Who answered."""
    total: Tally
    classes: dict[str, Tally]
    """By `column=value`."""

    def of(self, column: str) -> dict[str, Tally]:
        """Return the classes of one column, by value."""
        pairs = ((name.partition("="), tally) for name, tally in self.classes.items())
        return {value: tally for (own, _, value), tally in pairs if own == column}

    @property
    def accuracy(self) -> float:
        """Strict accuracy."""
        return score(self.total).strict


MetricsLine = RoundMetrics | EvaluationMetrics
KINDS: Mapping[str, type[MetricsLine]] = {"round": RoundMetrics, "evaluation": EvaluationMetrics}
NAMES = {kind: name for name, kind in KINDS.items()}


def read_metrics(path: Path) -> list[MetricsLine]:
    """Read the metrics of a run; a file that does not exist holds none.

    Raises:
        RunError: a line is damaged; names file, line and field.
    """
    return read_typed(path, parsed_metrics)


def metrics_entry(line: MetricsLine) -> Entry:
    """Return a line as it is written."""
    return {"kind": NAMES[type(line)], **as_entry(line)}


def parsed_metrics(entry: Entry) -> MetricsLine:
    """Return the typed line of a JSON object.

    Raises:
        ValueError: a field is missing or has another type; names it.
    """
    kind = entry.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"kind is {kind!r:.80}, not one of {', '.join(KINDS)}")
    return parsed(KINDS[kind], entry)


def former_names() -> list[tuple[str, str]]:
    """Return (name, name in format 1) of the metrics of rounds and clients that were renamed."""
    pairs = [f.metadata["keys"] for kind in (RoundMetrics, ClientMetrics) for f in fields(kind) if "keys" in f.metadata]
    return [pair for pair in pairs if pair and pair[0] != pair[1]]
