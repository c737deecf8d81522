"""Tables at the width of any terminal: nothing is cut off."""

import io
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from fedgrpo.client.commands import check, check_view, status_view
from fedgrpo.common.cli.tables import WholeTable
from fedgrpo.server.operator.status_view import print_status
from fedgrpo.server.run.status import RunStatus
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


@pytest.fixture(params=[80, 60])
def printed(request, monkeypatch, capsys):
    """What a view prints at this width, without white space; no line is wider, and nothing is cut."""
    monkeypatch.setenv("COLUMNS", str(request.param))

    def read(view, *arguments):
        view(*arguments)
        out = capsys.readouterr().out
        assert max(map(len, out.splitlines())) <= request.param
        assert "…" not in out
        return re.sub(r"\s", "", out)

    return read


FIELDS = [
    {"name": "header.tallies", "type": "text", "bytes": 4321, "sha256": "ab" * 32, "value": str(list(range(60)))},
    {"name": "vector", "type": "float32", "shape": [147456], "bytes": 589824, "sha256": "cd" * 32, "norm": 1.25},
]


def test_server_status_is_whole_in_a_narrow_terminal(printed):
    clients = {f"clinic-of-a-long-name-{n}": 200.0 for n in range(4)}
    status = RunStatus("pilot-of-spring", 3, 12, "stopped", "the disk was full", 10_000, clients)
    node = {"node-id": 12345678901234567890, "name": "clinic-a", "state": "online", "online-at": "2026-01-01T00:00:00Z"}
    text = printed(print_status, [status], [node], "")
    shown = ",".join(f"{name}3minago" for name in clients)
    for character in set(shown):
        assert text.count(character) >= shown.count(character), character
    assert "3/12" in text


def test_client_egress_shows_every_value_whole_in_a_narrow_terminal(printed):
    entry = {"time": 0.0, "sent": True, "to": "fed.example.org", "answers": "train", "bytes": 594145, "fields": FIELDS}
    text = printed(status_view.print_egress, Path("egress.jsonl"), [entry], 1)
    assert "589824" in text
    assert all(digits in text for digits in ("abababab", "cdcdcdcd"))
    assert "57,58,59]" in text


def test_client_check_shows_steps_and_fields_whole_in_a_narrow_terminal(printed):
    found = check.Checked(
        organisation=SimpleNamespace(file=Path("clinic.toml")),
        steps=[("model", f"Qwen/Qwen2.5-0.5B-Instruct in {PATH}")],
        leaving=[("train", FIELDS)],
    )
    text = printed(check_view.show, found)
    assert "57,58,59]" in text
    assert "589824" in text
    assert "20260101-120000" in text
