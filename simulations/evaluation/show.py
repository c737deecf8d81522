"""What a person reads of an evaluation."""

from __future__ import annotations

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ...client.learner.data.problems import Problem
from ...common.cli.options import plain, plain_lines
from ...common.cli.tables import WholeTable
from .answer import Answer
from .measures import SHARES, Figure
from .session import EvaluationResult


def show(found: EvaluationResult, samples: int) -> None:
    """Print protocol, figures, classes, styles, and some completions side by side."""
    console = Console()
    console.print(WholeTable(_protocol(found)))
    for decoding in found.measured.figures:
        console.print(WholeTable(_figures(found, decoding)))
    last = list(found.measured.figures)[-1]
    if found.measured.classes[last]:
        console.print(WholeTable(_classes(found, last)))
    for line in _styles(found, last):
        console.print(line, style="dim", highlight=False)
    if unread := _unread(found, last):
        console.print(unread, style="yellow")
    for problem, base, adapter in found.samples(samples):
        console.print(Panel(plain_lines(problem.question), title=Text(f"answer {problem.answer}"), title_align="left"))
        console.print(WholeTable(_pair(problem, base, adapter)))


def _protocol(found: EvaluationResult) -> Table:
    how, system = found.how, found.questions.system_prompt
    drawn = f"{how.samples} completions each at temperature {how.temperature:g}" if how.samples else ""
    rows = {
        "evaluated": found.target.name,
        "model": found.target.config.model.name,
        "problems": f"{len(found.questions.problems)} of {found.questions.source}",
        "system prompt": repr(system) if system else "none",
        "decoding": " and ".join(part for part in ("greedy" if how.greedy else "", drawn) if part)
        + f", at most {how.max_tokens} tokens, by {how.sampler}",
    }
    table = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        table.add_row(Text(name, style="dim"), plain(value))
    return table


def _figures(found: EvaluationResult, decoding: str) -> Table:
    table = Table(title=decoding, title_justify="left")
    paired = bool(found.adapter_sha256)
    for heading in ("", "base model", *(("adapter", "gain") if paired else ()), "95 % interval"):
        table.add_column(heading, justify="left" if not heading else "right")
    table.caption = "gains of shares in percentage points" if paired else None
    for figure in found.measured.figures[decoding]:
        table.add_row(figure.name, *_cells(figure, figure.name, paired))
    return table


def _classes(found: EvaluationResult, decoding: str) -> Table:
    table = Table(title=f"strict accuracy by class, {decoding}", title_justify="left")
    paired = bool(found.adapter_sha256)
    for heading in ("class", "problems", "base model", *(("adapter", "gain") if paired else ()), "95 % interval"):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    for name, figure in found.measured.classes[decoding].items():
        table.add_row(plain(name), str(figure.problems), *_cells(figure, "strict", paired))
    return table


def _cells(figure: Figure, name: str, paired: bool) -> list[str]:
    """A figure's values: shares in percent, tokens and rewards as they are."""
    share = name in SHARES or "@" in name
    if not figure.problems:
        return ["–"] * (4 if paired else 2)

    def value(x: float) -> str:
        return f"{x:.1%}" if share else f"{x:.1f}" if name == "tokens" else f"{x:.3f}"

    def change(x: float) -> str:
        return f"{100 * x:+.1f}" if share else f"{x:+.1f}" if name == "tokens" else f"{x:+.3f}"

    if figure.adapter is None or figure.gain is None:
        return [value(figure.base), f"{value(figure.low)} to {value(figure.high)}"]
    interval = f"{change(figure.low)} to {change(figure.high)}"
    return [value(figure.base), value(figure.adapter), change(figure.gain), interval]


def _styles(found: EvaluationResult, decoding: str) -> list[str]:
    return [
        f"{model} answers, {decoding}: " + ", ".join(f"{style} {share:.0%}" for style, share in shares.items())
        for model, shares in found.measured.styles[decoding].items()
    ]


def _unread(found: EvaluationResult, decoding: str) -> str:
    """A word where accuracy is low because answers do not stand where they are looked for."""
    by_name = {figure.name: figure for figure in found.measured.figures[decoding]}
    strict, lenient = by_name["strict"], by_name["lenient"]
    if max(lenient.base, lenient.adapter or 0.0) < 0.05 or max(strict.base, strict.adapter or 0.0) >= lenient.base / 2:
        return ""
    return (
        "Far more answers are right by the last number than where the format wants them (in <answer>, after </think> "
        "or ####). Was the model told of the format? See --system."
    )


def _pair(problem: Problem, base: Answer, adapter: Answer | None) -> Table:
    grid = Table.grid(expand=True, padding=(0, 2))
    sides = [("base model", base), *([("adapter", adapter)] if adapter else [])]
    for _ in sides:
        grid.add_column(ratio=1)
    grid.add_row(*(Text(f"{name} {'✓' if one.strict else '✗'}") for name, one in sides))
    grid.add_row(*(plain_lines(one.completion) for _, one in sides))
    return grid
