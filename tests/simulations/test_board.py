"""The board: the committed page is what its command makes, and a file of others is read or refused by its key."""

import json
import re
import shlex
from pathlib import Path

import pytest
from fedgrpo.common.errors import ConfigError
from fedgrpo.simulations.study.board import HEADINGS, board
from fedgrpo.simulations.study.study_file import read_study

ROOT = Path(__file__).parents[2]
SMALLEST = {
    "study": "mine",
    "scenario": "gsm8k",
    "arms": {"federated": {"rows": [{"accuracy": 0.612, "by_seed": {"0": 0.601, "1": 0.623}}]}},
}


def written(folder, result, name="mine"):
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "result.json").write_text(json.dumps(result))
    return folder


def lines(page):
    """The cells of each line under the table's head."""
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows[2:]]


def test_the_committed_page_is_what_the_command_makes_of_the_committed_files():
    assert (ROOT / "docs" / "board.md").read_text() == board([ROOT / "docs" / "studies"])


def test_every_command_on_the_committed_page_names_a_study_of_this_repository_with_that_arm():
    for cells in lines((ROOT / "docs" / "board.md").read_text()):
        found = dict(zip(HEADINGS, cells, strict=True))
        command = shlex.split(found["again"].strip("`"))
        assert command[:2] == ["fedgrpo", "study"]
        arms = {arm.name for arm in read_study(ROOT / command[2]).arms}
        assert found["arm"].partition(" (")[0] in arms


def test_the_least_a_file_can_say_makes_a_line(tmp_path):
    (cells,) = lines(board([written(tmp_path, SMALLEST)]))
    assert cells == [
        "builtin", "gsm8k", "federated", "61.2% (60.1% to 62.3%)", "–", "–", "–", "–", "–", "none", "no", "2",
        "`fedgrpo study benchmarks/studies/mine.toml`",
    ]  # fmt: skip


def test_all_a_file_can_say_is_on_its_line(tmp_path):
    arm = {
        "kind": "federated",
        "settings": {"model.name": "builtin", "privacy.mode": "secagg", "dp.noise-multiplier": 1.0},
        "rows": [{"accuracy": 0.5, "by_seed": {"3": 0.5}}],
        "lenient": 0.6,
        "truncated": 0.05,
        "sampled_tokens": 1_234_567,
        "bytes_up": 1_500_000_000,
        "bytes_down": 2_500_000_000,
        "seconds": 99.6,
        "epsilon": 7.891,
    }
    result = SMALLEST | {"command": "fedgrpo study a.toml", "task": "words", "arms": {"x": arm, "y": {"rows": []}}}
    assert lines(board([written(tmp_path, result)])) == [[
        "builtin", "words", "x", "50.0%", "60.0%", "5.0%", "1.23 M", "4", "100", "7.89", "yes", "1",
        "`fedgrpo study a.toml`",
    ]]  # fmt: skip


def test_a_private_arm_that_does_not_say_its_epsilon_is_not_shown_as_one_without(tmp_path):
    arm = SMALLEST["arms"]["federated"] | {"settings": {"dp.noise-multiplier": 1.0}}
    (cells,) = lines(board([written(tmp_path, SMALLEST | {"arms": {"x": arm}})]))
    assert cells[HEADINGS.index("epsilon")] == "–"


def test_smoke_runs_are_left_out_and_names_cannot_break_the_table(tmp_path):
    written(tmp_path, SMALLEST | {"quick": True}, "quick")
    written(tmp_path, SMALLEST | {"model": "a|b\n| c |"}, "odd")
    (cells,) = lines(board([tmp_path]))
    assert cells[0] == "a/b / c /"


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("[1", "cannot be read as JSON"),
        ('{"study": "x", "arms": {"a": {"rows": [{"accuracy": 1}]}}}', "by_seed"),
        ('{"arms": {}, "study": "x"}', ""),
        ("[]", "not a result file"),
        ('{"study": "x"}', "arms"),
    ],
)
def test_a_file_that_lacks_something_is_named_with_what(tmp_path, result, message):
    (tmp_path / "result.json").write_text(result)
    if not message:
        assert lines(board([tmp_path])) == []
        return
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        board([tmp_path])
    assert "result.json" in str(caught.value)


def test_without_any_file_it_is_said_what_writes_one(tmp_path):
    with pytest.raises(ConfigError, match="fedgrpo study writes them"):
        board([tmp_path])
    with pytest.raises(ConfigError, match="does not exist"):
        board([tmp_path / "nowhere"])
