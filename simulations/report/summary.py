"""What a person reads when a run is done."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from ...common.analysis.contributions import LITTLE_SIGNAL
from ...common.analysis.privacy import highest_epsilon, privacy_in_words
from ...common.analysis.scores import fall_in_words, points, score
from ...common.cli.options import plain
from ...common.cli.tables import WholeTable
from ...common.settings.run_config import RunConfig
from ...server.run.reader import Run


def print_summary(run: Run, report: Path, wall_s: float) -> None:
    """Print the result of a run: accuracy, what its change consists of, what the run cost, and where its files are.

    Args:
        wall_s: seconds from the command to the report, evaluations and loading included.
    """
    console = Console()
    console.print()
    _print_accuracy(console, run)
    console.print(WholeTable(_class_table(run)))
    for note in [*notes(run.config), *privacy_notes(run)]:
        console.print(note, style="dim")
    console.print(WholeTable(_ledger_table(run)))
    for contribution in run.contributions():
        if contribution.informative < LITTLE_SIGNAL:
            console.print(str(contribution), style="yellow")
    for tripped in run.warnings():
        console.print(str(tripped), style="yellow", markup=False)
    _print_cost(console, run, wall_s)
    console.print(f"Run folder  {run.folder}\nReport      {report}", soft_wrap=True, highlight=False)


def _print_accuracy(console: Console, run: Run) -> None:
    """Print the sampled accuracy, the other readings of it, and in words what fell and what the change consists of."""
    result = run.result()
    found = result["accuracy"]
    low, high = found["interval"]
    console.print(
        f"[bold]Held-out accuracy, sampled: {found['before']:.1%} → {found['after']:.1%}[/bold]  "
        f"({points(found['gain'])} over the base model on the same {found['problems']} problems, "
        f"95 % interval {points(low)} to {points(high)}; temperature {run.config.evaluation.temperature:g}, strict)"
    )
    console.print(
        f"greedy {_percent(found['greedy']['before'])} → {_percent(found['greedy']['after'])}   "
        f"lenient {found['lenient']['before']:.1%} → {found['lenient']['after']:.1%}   "
        f"truncated {result['truncated']['before']:.1%} → {result['truncated']['after']:.1%}   "
        f"length {result['completion_length']['before']:.0f} → {result['completion_length']['after']:.0f} tokens",
        style="dim",
    )
    for fall in falls(run):
        console.print(fall, style="yellow")
    climb = run.climb
    if low <= 0 <= high:
        console.print("The interval includes 0: no difference to the base model was found.")
    else:
        console.print(
            f"Of the change, {points(climb.by_mix)} come from answering in another style and {points(climb.within)} "
            "from answering better within a style."
        )


def _print_cost(console: Console, run: Run, wall_s: float) -> None:
    result = run.result()
    rounds = result["rounds"]
    console.print(
        f"\n{rounds} round{'s' * (rounds != 1)} in {result['seconds']:.0f} s; {wall_s:.0f} s in all, with loading and "
        f"evaluation. Up {result['bytes_up'] / 1e6:.1f} MB, down {result['bytes_down'] / 1e6:.1f} MB, "
        f"{result['void_rounds']} void. Adapter {result['adapter_sha256'][:12]}"
    )


def falls(run: Run) -> list[str]:
    """Return a sentence for each decoding whose accuracy is lower than the base model's, or that was not measured."""
    last = {"Sampled": run.sampled[-1:], "Greedy": run.greedy[-1:]}
    sentences = [fall_in_words(name, score(e.total)) for name, evaluated in last.items() for e in evaluated]
    return [sentence for sentence in (run.outdated, *sentences) if sentence]


def notes(config: RunConfig) -> list[str]:
    """What must be said beside the figures of a run."""
    if config.model.name not in COLD_STARTS:
        return []
    return [COLD_STARTS[config.model.name] if config.simulation.dataset == "builtin" else STAND_IN]


def privacy_notes(run: Run) -> list[str]:
    """Return what the run has cost in privacy, in a sentence; empty for a run without differential privacy."""
    reported = [client.reported for line in run.rounds for client in line.clients.values()]
    return [text] if (text := privacy_in_words(run.config, highest_epsilon(reported))) else []


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


def _class_table(run: Run) -> Table:
    table = Table(box=None, header_style="dim")
    for heading in ("class", "", "share before", "share after", "accuracy before", "accuracy after"):
        table.add_column(heading, justify="right" if "before" in heading or "after" in heading else "left")
    last = ""
    for row in run.class_rows():
        shares = [f"{share:.0%}" for share in (row.share_before, row.share_after)]
        heading = "" if row.column == last else f"by {row.column}"
        table.add_row(plain(heading), plain(row.value), *shares, _percent(row.before), _percent(row.after))
        last = row.column
    return table


def _ledger_table(run: Run) -> Table:
    """What each client learned from, weighed and sent."""
    table = Table(box=None, header_style="dim")
    headings = ("client", "informative", "all right", "all wrong", "mean weight", "up MB", "down MB")
    told = run.contributions()
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "client" else "right")
    for one in told:
        shares = (_share(value) for value in (one.informative, one.all_right, one.all_wrong, one.share))
        table.add_row(one.organisation, *shares, f"{one.bytes_up / 1e6:.2f}", f"{one.bytes_down / 1e6:.2f}")
    return table


def _share(value: float) -> str:
    return "–" if value != value else f"{value:.0%}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
