"""Tables at the width of any terminal: nothing is cut off."""

import io
import re

import pytest
from fedgrpo.common.cli.tables import WholeTable
from rich.console import Console
from rich.table import Table

NUMBERS = [f"+{n}.{n} points" for n in range(10, 18)]
PATH = "/a/very/long/path/without/any/blank/in/it/to/a/run-folder-20260101-120000"


def drawn(table, width):
    console = Console(file=io.StringIO(), width=width)
    console.print(WholeTable(table))
    return console.file.getvalue()


def wide_table(**options):
    table = Table(title="a title", caption="a caption", **options)
    table.add_column("client")
    table.add_column("folder")
    for number in range(8):
        table.add_column(f"measure{number}", justify="right")
    table.add_row("client-with-a-long-name-0", PATH, *NUMBERS)
    table.add_row("client-with-a-long-name-1", PATH, *NUMBERS[::-1])
    return table


@pytest.mark.parametrize("options", [{}, {"box": None, "pad_edge": False}], ids=["framed", "bare"])
@pytest.mark.parametrize("width", [300, 120, 80, 60, 40])
def test_every_value_is_printed_at_every_width(width, options):
    text = drawn(wide_table(**options), width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    assert len(re.findall(r"\+\d+\.\d+", text)) == 16
    letters = re.sub(r"[^a-z0-9/]", "", text)
    for character in set(PATH):
        assert text.count(character) >= 2 * PATH.count(character), character
    assert letters.count("client") >= 2


@pytest.mark.parametrize("width", [80, 60, 40])
def test_a_number_is_never_broken_over_two_lines(width):
    assert set(NUMBERS) == set(re.findall(r"\+\d+\.\d+ points", " ".join(drawn(wide_table(), width).split())))


def test_a_table_that_fits_is_the_table():
    assert drawn(wide_table(), 300).count("measure0") == 1
    assert drawn(wide_table(), 60).count("measure0") == 2


def test_a_path_in_a_table_of_text_folds():
    table = Table("name", "what", show_header=False, box=None)
    table.add_row("Python", f"3.11.7 in {PATH}")
    assert PATH in re.sub(r"\s", "", drawn(table, 60))
