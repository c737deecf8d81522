"""What a person watches while a simulation runs, and reads when it is done."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ...common.cli.tables import WholeTable
from ...common.settings.run_config import RunConfig
from ...server.run import events
from ..engine.price import price_in_words
from ..engine.progress import is_kept, is_progress
from ..engine.simulated_clients import client_name

BLOCKS = " ▁▂▃▄▅▆▇█"
KEPT_NOTES = 4
TROUBLE = (
    events.NotJoined,
    events.TooFewClients,
    events.NotEvaluated,
    events.UpdateRefused,
    events.RoundVoid,
    events.Warned,
)


@contextmanager
def watching(config: RunConfig, *, resumed: bool, quiet: bool = False) -> Iterator[None]:
    """Show events on stderr while the block runs: a live picture on a terminal, plain lines elsewhere.

    Args:
        quiet: show nothing at all.
    """
    console = Console(stderr=True, quiet=quiet)
    logger = logging.getLogger("fedgrpo")
    handler = logging.NullHandler() if quiet else _LiveView(config) if console.is_terminal else _PlainLines(sys.stderr)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    console.print(WholeTable(_heading(config, resumed)))
    try:
        if isinstance(handler, _LiveView):
            with Live(handler, console=console, refresh_per_second=8, transient=False):
                yield
                handler.finish()
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


class _PlainLines(logging.Handler):
    """One line per event; step-by-step progress is left out."""

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        if not is_progress(record) and not is_kept(record):
            print(_line(record), file=self._stream, flush=True)


class _LiveView(logging.Handler):
    """A picture of the federation, redrawn from the events so far."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        self._config = config
        self._doing = {client_name(k): "loading the model" for k in config.simulation.taking_part}
        self._rewards: dict[str, list[float]] = {name: [] for name in self._doing}
        self._signal: dict[str, float] = {}
        self._rounds: list[events.RoundCommitted] = []
        self._accuracy: dict[int, float] = {}
        self._greedy: dict[int, float] = {}
        self._phase = "loading the model"
        self._notes: list[str] = []
        self._started = time.monotonic()

    def finish(self) -> None:
        """Show that nothing is under way any more: the picture stays on the screen."""
        self._phase = "finished"

    def emit(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", None)
        if is_kept(record):
            return
        if hasattr(record, "step"):
            step, steps = getattr(record, "step", 0), self._config.train.steps_per_round
            self._doing[getattr(record, "organisation", "")] = f"step {step} of {steps}"
        elif hasattr(record, "batch"):
            self._take_batch(record)
        elif (
            event is None
            or isinstance(event, TROUBLE)
            or (isinstance(event, events.RoundCommitted) and not event.moved)
        ):
            self._notes = [*self._notes, _line(record)][-KEPT_NOTES:]
        else:
            self._take(event)

    def _take_batch(self, record: logging.LogRecord) -> None:
        """Show how far a client's evaluation is: its batches differ in length, and a real model's take minutes."""
        number, batches = getattr(record, "batch", 0), getattr(record, "batches", 0)
        done = number == batches
        self._doing[getattr(record, "organisation", "")] = (
            "evaluated" if done else f"evaluating: batch {number} of {batches}"
        )

    def _take(self, event: events.Event) -> None:
        match event:
            case events.Joined(name, examples):
                self._doing[name] = f"joined with {examples} prompts"
            case events.RoundStarted(number, _, cohort):
                self._phase = f"round {number}: training"
                self._doing |= dict.fromkeys(cohort, f"round {number}: working")
            case events.EvaluationStarted(number, decoding, cohort):
                when = f"after round {number}" if number else "before round 1"
                self._phase = f"{decoding} evaluation {when}"
                self._doing |= dict.fromkeys(cohort, f"evaluating ({decoding})")
            case events.UpdateTaken(_, name, metrics):
                self._rewards.setdefault(name, []).append(metrics.get("reward/mean", 0.0))
                self._signal[name] = 1 - metrics.get("groups/zero-variance-share", 0.0)
                self._doing[name] = f"done in {metrics.get('seconds/total', 0.0):.1f} s"
            case events.RoundCommitted():
                self._rounds.append(event)
            case events.Evaluated(number, "sampled", found):
                self._accuracy[number] = found.strict
            case events.Evaluated(number, "greedy", found):
                self._greedy[number] = found.strict
            case _:
                pass

    def __rich__(self) -> Group:
        total = self._config.federation.rounds
        done = self._rounds[-1].round if self._rounds else 0
        bar = Table.grid(padding=(0, 1))
        bar.add_row(f"round {done}/{total}", ProgressBar(total=total, completed=done, width=40), self._totals())
        parts: list[Any] = [bar, Text(self._phase, "dim"), WholeTable(self._clients()), self._accuracy_line()]
        return Group(*parts, *(Text(note, style="yellow") for note in self._notes))

    def _totals(self) -> str:
        """Return the seconds since the start, evaluations included, and the bytes of the rounds so far."""
        up, down = (sum(getattr(r, f"bytes_{way}") for r in self._rounds) / 1e6 for way in ("up", "down"))
        return f"{time.monotonic() - self._started:.0f} s   ↑ {up:.1f} MB   ↓ {down:.1f} MB"

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
        line = f"held-out accuracy (sampled)  {sparkline(values, 0.0, 1.0)}  {values[0]:.1%} → {values[-1]:.1%}"
        greedy = list(self._greedy.values())
        return Text(line + (f"   greedy {greedy[0]:.1%} → {greedy[-1]:.1%}" if len(greedy) > 1 else ""), "bold")


def _heading(config: RunConfig, resumed: bool) -> Table:
    grpo, steps = config.grpo, config.train.steps_per_round
    default = RunConfig().flat()
    own = [f"{k}={v}" for k, v in config.flat().items() if v != default[k] and not k.startswith("output.")]
    table = Table.grid(padding=(0, 2))
    rows = {
        "federation": f"{_who(config)}, {config.federation.rounds} rounds, "
        f"seed {config.federation.seed}" + (", resumed" if resumed else ""),
        "model": f"{config.model.name}, LoRA rank {config.adapter.rank} on {config.adapter.target_modules}",
        "each round": f"{steps} steps x {grpo.prompts_per_step} prompts x {grpo.num_generations} completions, "
        f"learning rate {grpo.learning_rate:g}",
        "together": f"{config.method_name}, weights by {config.aggregation.weights}",
        "data": f"{config.simulation.dataset}, {config.simulation.partition}; rewards {config.simulation.rewards}",
        "settings": ", ".join(own) + "; the others have their defaults",
        "folder": str(Path(config.output.dir) / config.output.run),
    }
    if config.privacy.mode != "none":
        rows["together"] += f", {config.privacy.mode}"
    if config.dp.on:
        rows["privacy"] = price_in_words(config)
    for name, value in rows.items():
        table.add_row(Text(name, style="dim"), Text(value))
    return table


def _who(config: RunConfig) -> str:
    alone, clients = config.simulation.only, f"{config.simulation.clients} clients"
    return clients if alone < 0 else f"{client_name(alone)} alone, of {clients}"


def _line(record: logging.LogRecord) -> str:
    return record.getMessage() + (f"\n{record.exc_text}" if record.exc_text else "")
