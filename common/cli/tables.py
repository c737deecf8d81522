"""Tables that lose nothing: in a narrow terminal words fold; in a narrower one each row becomes a block of lines."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

LEAST_TEXT = 12
"""A column of text may become this narrow, even where a word in it is longer: it is then folded."""


class WholeTable:
    """A table that is printed whole at any width. Numbers (columns that are justified right) are never folded."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Render the table, or a block of lines for each of its rows."""
        table = self._table
        for column in table.columns:
            column.overflow, column.no_wrap = "fold", False
        if not table.expand:
            widths = [_widths(console, column, with_header=table.show_header) for column in table.columns]
            room = options.max_width - _frame_width(table)
            if sum(least for least, _ in widths) > room and table.show_header:
                yield from _blocks(table)
                return
            if sum(most for _, most in widths) > room:
                for column, width in zip(table.columns, _shared(widths, room), strict=True):
                    column.width = width
        yield table


def _widths(console: Console, column: Column, *, with_header: bool) -> tuple[int, int]:
    """Return the least and the natural width: a number is never folded, the words of a text are if they are long."""
    cells = [*([column.header] if with_header else []), *column.cells]
    wide = console.options.update(width=10_000)
    measured = [Measurement.get(console, wide, cell) for cell in cells]
    longest_word = max((each.minimum for each in measured), default=0)
    natural = max((each.maximum for each in measured), default=0)
    if column.justify == "right":
        values = max((Measurement.get(console, wide, cell).maximum for cell in column.cells), default=0)
        return max(longest_word, values), natural
    return min(longest_word, LEAST_TEXT), natural


def _shared(widths: list[tuple[int, int]], room: int) -> list[int]:
    """Return a width for each column: the columns that lack least get what they lack, the others share the rest."""
    given = [least for least, _ in widths]
    rest = max(0, room - sum(given))
    by_need = sorted(range(len(widths)), key=lambda i: widths[i][1] - widths[i][0])
    for served, i in enumerate(by_need):
        extra = min(widths[i][1] - widths[i][0], rest // (len(widths) - served))
        given[i] += extra
        rest -= extra
    return [max(1, width) for width in given]


def _frame_width(table: Table) -> int:
    _, right, _, left = table.padding
    return len(table.columns) * (left + right) + (len(table.columns) + 1 if table.box else 0)


def _blocks(table: Table) -> Iterator[RenderableType]:
    """Yield the rows one below the other, each value on a line of its own behind its heading."""
    if table.title:
        yield Text(str(table.title), "italic")
    headings = [_as_text(column.header) for column in table.columns]
    for cells in zip_longest(*(column.cells for column in table.columns), fillvalue=""):
        lines = Table.grid(padding=(0, 1))
        lines.add_column(style="dim", overflow="fold")
        lines.add_column(overflow="fold")
        for number, (heading, cell) in enumerate(zip(headings, cells, strict=True)):
            lines.add_row(Text("  " if number else "").append_text(heading), cell)
        yield lines
    if table.caption:
        yield Text(str(table.caption), "dim")


def _as_text(heading: RenderableType) -> Text:
    plain = heading.plain if isinstance(heading, Text) else str(heading)
    return Text(" ".join(plain.split()))
