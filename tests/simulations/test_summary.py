"""What a person and a script read when a run is done: the summary, the JSON line, the report's tables."""

import json
from html.parser import HTMLParser

import export_runs
import pytest
from fedgrpo.common.cli import main as cli
from fedgrpo.common.messages.messages import Tally
from fedgrpo.server.run.metrics import EvaluationMetrics
from fedgrpo.server.run.reader import Run
from fedgrpo.server.run.store import Store
from fedgrpo.simulations.engine import runner
from fedgrpo.simulations.engine.simulated_clients import BUILTIN_POLICY
from fedgrpo.simulations.report.html import TEMPLATE, write_report
from fedgrpo.simulations.report.summary import print_summary


@pytest.fixture
def run(tmp_path):
    """A run whose sampled accuracy rose from 0 to 7 of 20, and whose greedy accuracy fell from 12 to 4."""
    export_runs.make_run(tmp_path / "run-7", BUILTIN_POLICY, export_runs.settings("builtin"))
    fallen = Tally(problems=20, correct=4, gained=1, lost=9)
    line = EvaluationMetrics(round=3, decoding="greedy", clients=("clinic-a",), total=fallen, classes={})
    Store(tmp_path / "run-7").add_metrics(line)
    return Run.read(tmp_path / "run-7")


def test_the_summary_names_sampled_shows_greedy_and_says_in_words_what_fell(run, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    print_summary(run, run.files.report, wall_s=75.0)
    text = " ".join(capsys.readouterr().out.split())
    assert "Held-out accuracy, sampled: 0.0% → 35.0%" in text
    assert "temperature 1, strict" in text
    assert "greedy 0.0% → 20.0%" in text
    assert "Greedy accuracy fell from 60.0% to 20.0%" in text
    assert "Sampled accuracy fell" not in text
    assert "75 s in all, with loading and evaluation" in text


def test_the_json_line_names_the_decoding_and_the_seconds_of_the_command(run, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "run_simulation", lambda config: run)
    monkeypatch.setattr("sys.argv", ["fedgrpo", "simulate", "--format", "json"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["accuracy"]["decoding"] == "sampled"
    assert result["accuracy"]["greedy"] == {"before": 0.0, "after": 0.2}
    assert 0 < result["wall_seconds"] < 300
    assert run.files.report.is_file()


class Tables(HTMLParser):
    """The class of the element around each table."""

    def __init__(self):
        super().__init__()
        self.open, self.around = [], []

    def handle_starttag(self, tag, attrs):
        if tag == "table":
            self.around.append(self.open[-1] if self.open else None)
        if tag == "div":
            self.open.append(dict(attrs).get("class"))

    def handle_endtag(self, tag):
        if tag == "div":
            self.open.pop()


def test_on_a_phone_each_table_of_the_report_scrolls_in_its_own_box(run):
    page = write_report(run).read_text()
    tables = Tables()
    tables.feed(page)
    assert len(tables.around) == page.count("<table") >= 3
    assert set(tables.around) == {"wide"}
    assert ".wide { overflow-x: auto; max-width: 100%; }" in page
    assert '<meta name="viewport" content="width=device-width' in TEMPLATE.read_text()
