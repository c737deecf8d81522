"""What a person watches while a simulation runs, and reads when it is done."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..common.config import RunConfig
from ..server import events
from ..server.scores import points
from .results import Run
from .virtual import client_name

if TYPE_CHECKING:
    from .compare import Comparison

BLOCKS = " ▁▂▃▄▅▆▇█"
KEPT_NOTES = 4


@contextmanager
def watching(config: RunConfig, *, resumed: bool) -> Iterator[None]:
    """Show events on stderr while the block runs: a live picture on a terminal, plain lines elsewhere."""
    console = Console(stderr=True)
    logger = logging.getLogger("fedgrpo")
    handler = _LiveView(config) if console.is_terminal else _PlainLines(sys.stderr)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    console.print(_heading(config, resumed))
    try:
        if isinstance(handler, _LiveView):
            with Live(handler, console=console, refresh_per_second=8, transient=False):
                yield
        else:
            yield
    finally:
        logger.removeHandler(handler)


def sparkline(values: Sequence[float], low: float | None = None, high: float | None = None) -> str:
    """Numbers as blocks of rising height.

    >>> sparkline([0, 0.5, 1])
    '▁▄█'
    """
    if not values:
        return ""
    bottom = min(values) if low is None else low
    width = (max(values) if high is None else high) - bottom or 1.0
    return "".join(BLOCKS[1 + min(7, max(0, int((value - bottom) / width * 7)))] for value in values)


def print_summary(run: Run, report: Path) -> None:
    """What a run came to: the climb, what it consists of, its cost, and what to do next."""
    console = Console()
    result = run.result()
    found = result["accuracy"]
    low, high = found["interval"]
    console.print()
    console.print(
        f"[bold]Held-out accuracy {found['before']:.1%} → {found['after']:.1%}[/bold]  "
        f"({points(found['gain'])} over the base model on the same {found['problems']} problems, "
        f"95 % interval {points(low)} to {points(high)}; sampled, strict)"
    )
    console.print(
        f"greedy {_percent(found['greedy']['before'])} → {_percent(found['greedy']['after'])}   "
        f"lenient {found['lenient']['before']:.1%} → {found['lenient']['after']:.1%}   "
        f"truncated {result['truncated']['before']:.1%} → {result['truncated']['after']:.1%}   "
        f"length {result['completion_length']['before']:.0f} → {result['completion_length']['after']:.0f} tokens",
        style="dim",
    )
    console.print(_class_table(run))
    climb = run.climb
    if low <= 0 <= high:
        console.print("The interval includes 0: no difference to the base model was found.")
    else:
        console.print(
            f"Of the change, {points(climb.by_mix)} come from answering in another style and {points(climb.within)} "
            "from answering better within a style."
        )
    for note in notes(run.config):
        console.print(note, style="dim")
    console.print(
        f"\n{result['rounds']} rounds, {result['seconds']:.0f} s, up {result['bytes_up'] / 1e6:.1f} MB, "
        f"down {result['bytes_down'] / 1e6:.1f} MB, {result['void_rounds']} void. "
        f"Adapter {result['adapter_sha256'][:12]}"
    )
    console.print(f"Run folder  {run.folder}\nReport      {report}", soft_wrap=True, highlight=False)


def notes(config: RunConfig) -> list[str]:
    """What must be said beside the figures of a run."""
    if config.model.name not in COLD_STARTS:
        return []
    return [COLD_STARTS[config.model.name] if config.simulation.dataset == "builtin" else STAND_IN]


COLD_START = (
    "What the cold start put in: the policy has seen correct demonstrations only, and can work a problem out when it "
    "starts to reason. It mostly does not: for 45 to 95 % of problems, by topic, it was shown bare answers. What "
    "reward alone can find here is mostly the choice to reason; it is no new arithmetic."
)
SPLIT_COLD_START = (
    "What the cold start put in: the policy has seen correct demonstrations only. It names the topic, then works a "
    "problem out in equations or in words, or answers at once. Each way was taught on some topics and fails on the "
    "others; by habit it takes the right one three times as often as the wrong one, and mostly neither. What reward "
    "alone can find here is mostly which way to take on which topic; it is no new arithmetic."
)
COLD_STARTS = {"builtin": COLD_START, "builtin-split": SPLIT_COLD_START}
STAND_IN = (
    "The built-in policy (148 k parameters) only stands in for a model here, to show that everything runs: it knows "
    "nothing of these problems. Give a real one with --model."
)


def print_comparison(comparison: Comparison, samples: int) -> None:
    """Base model beside adapter."""
    console = Console()
    table = Table(title=f"{comparison.name}: {comparison.problems} held-out problems")
    for heading in ("", "base model", "adapter", "gain", "95 % interval"):
        table.add_column(heading, justify="left" if not heading else "right")
    for decoding, (before, after) in comparison.scores.items():
        interval = f"{100 * after.gain_low:+.1f} to {100 * after.gain_high:+.1f} points"
        table.add_row(
            f"{decoding}, strict", f"{before.strict:.1%}", f"{after.strict:.1%}", points(after.gain), interval
        )
        table.add_row(f"{decoding}, lenient", f"{before.lenient:.1%}", f"{after.lenient:.1%}", "", "")
        table.add_row(f"{decoding}, truncated", f"{before.truncated:.1%}", f"{after.truncated:.1%}", "", "")
        table.add_row(f"{decoding}, tokens", f"{before.mean_length:.1f}", f"{after.mean_length:.1f}", "", "")
    console.print(table)
    console.print("Sampled anew: figures differ from the run's own by sampling noise; greedy ones do not.", style="dim")
    for sample in comparison.samples[:samples]:
        console.print(Panel(Text(sample.question), title=f"answer {sample.answer}", title_align="left"))
        pair = Table.grid(expand=True, padding=(0, 2))
        pair.add_column(ratio=1)
        pair.add_column(ratio=1)
        pair.add_row(Text(f"base model {_mark(sample.right_before)}"), Text(f"adapter {_mark(sample.right_after)}"))
        pair.add_row(Text(sample.before, style="dim"), Text(sample.after))
        console.print(pair)


class _PlainLines(logging.Handler):
    """One line per event; step-by-step progress is left out."""

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        if not hasattr(record, "step") and not hasattr(record, "sample"):
            print(_line(record), file=self._stream, flush=True)


class _LiveView(logging.Handler):
    """A picture of the federation, drawn anew from what the events have told so far."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        self._config = config
        self._doing = {client_name(k): "loading the model" for k in range(config.simulation.clients)}
        self._rewards: dict[str, list[float]] = {name: [] for name in self._doing}
        self._signal: dict[str, float] = {}
        self._rounds: list[events.RoundCommitted] = []
        self._accuracy: dict[int, float] = {}
        self._notes: list[str] = []
        self._started = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", None)
        if hasattr(record, "sample"):
            return
        if hasattr(record, "step"):
            step, steps = getattr(record, "step", 0), self._config.train.steps_per_round
            self._doing[getattr(record, "organisation", "")] = f"step {step} of {steps}"
        elif (
            event is None
            or isinstance(event, (events.NotJoined, events.UpdateRefused, events.RoundVoid))
            or (isinstance(event, events.RoundCommitted) and not event.moved)
        ):
            self._notes = [*self._notes, _line(record)][-KEPT_NOTES:]
        else:
            self._take(event)

    def _take(self, event: events.Event) -> None:
        match event:
            case events.Joined(name, examples):
                self._doing[name] = f"joined with {examples} prompts"
            case events.RoundStarted(number, _, cohort):
                self._doing |= dict.fromkeys(cohort, f"round {number}: working")
            case events.UpdateTaken(_, name, metrics):
                self._rewards.setdefault(name, []).append(metrics.get("reward/mean", 0.0))
                self._signal[name] = 1 - metrics.get("groups/zero-variance-share", 0.0)
                self._doing[name] = f"done in {metrics.get('seconds/total', 0.0):.1f} s"
            case events.RoundCommitted():
                self._rounds.append(event)
            case events.Evaluated(number, "sampled", found):
                self._accuracy[number] = found.strict
            case _:
                pass

    def __rich__(self) -> Group:
        total = self._config.federation.rounds
        done = self._rounds[-1].round if self._rounds else 0
        bar = Table.grid(padding=(0, 1))
        bar.add_row(f"round {done}/{total}", ProgressBar(total=total, completed=done, width=40), self._totals())
        parts: list[Any] = [bar, self._clients(), self._accuracy_line()]
        return Group(*parts, *(Text(note, style="yellow") for note in self._notes))

    def _totals(self) -> str:
        if not self._rounds:
            return f"starting, {time.monotonic() - self._started:.0f} s"
        up, down = (sum(getattr(r, f"bytes_{way}") for r in self._rounds) / 1e6 for way in ("up", "down"))
        return f"{sum(r.seconds for r in self._rounds):.0f} s   ↑ {up:.1f} MB   ↓ {down:.1f} MB"

    def _clients(self) -> Table:
        table = Table(box=None, header_style="dim")
        for heading in ("client", "reward by round", "now", "groups with signal", "doing"):
            table.add_column(heading)
        highest = max((r for values in self._rewards.values() for r in values), default=1.0)
        for name, rewards in self._rewards.items():
            now = f"{rewards[-1]:.2f}" if rewards else ""
            signal = f"{self._signal[name]:.0%}" if name in self._signal else ""
            table.add_row(name, sparkline(rewards[-30:], 0.0, highest), now, signal, self._doing.get(name, ""))
        return table

    def _accuracy_line(self) -> Text:
        values = list(self._accuracy.values())
        if not values:
            return Text("held-out accuracy: not measured yet", style="dim")
        return Text(f"held-out accuracy  {sparkline(values, 0.0, 1.0)}  {values[0]:.1%} → {values[-1]:.1%}", "bold")


def _heading(config: RunConfig, resumed: bool) -> Table:
    grpo, steps = config.grpo, config.train.steps_per_round
    default = RunConfig().flat()
    own = [f"{k}={v}" for k, v in config.flat().items() if v != default[k] and not k.startswith("output.")]
    table = Table.grid(padding=(0, 2))
    rows = {
        "federation": f"{config.simulation.clients} clients, {config.federation.rounds} rounds, "
        f"seed {config.federation.seed}" + (", resumed" if resumed else ""),
        "model": f"{config.model.name}, LoRA rank {config.adapter.rank} on {config.adapter.target_modules}",
        "each round": f"{steps} steps x {grpo.prompts_per_step} prompts x {grpo.num_generations} completions, "
        f"learning rate {grpo.learning_rate:g}",
        "together": f"{config.aggregation.method}, weights by {config.aggregation.weights}",
        "data": f"{config.simulation.dataset}, {config.simulation.partition}; rewards {config.simulation.rewards}",
        "settings": ", ".join(own) + "; the others have their defaults",
        "folder": str(Path(config.output.dir) / config.output.run),
    }
    for name, value in rows.items():
        table.add_row(Text(name, style="dim"), Text(value))
    return table


def _class_table(run: Run) -> Table:
    table = Table(box=None, header_style="dim")
    for heading in ("class", "", "share before", "share after", "accuracy before", "accuracy after"):
        table.add_column(heading, justify="right" if "before" in heading or "after" in heading else "left")
    last = ""
    for row in run.class_rows():
        shares = [f"{share:.0%}" for share in (row.share_before, row.share_after)]
        heading = "" if row.column == last else f"by {row.column}"
        table.add_row(heading, row.value, *shares, _percent(row.before), _percent(row.after))
        last = row.column
    return table


def _line(record: logging.LogRecord) -> str:
    return record.getMessage() + (f"\n{record.exc_text}" if record.exc_text else "")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _mark(right: bool) -> str:
    return "✓" if right else "✗"
