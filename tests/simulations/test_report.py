"""The report says what came of a run in three sentences, and draws figures that can be read in any light."""

import re
from xml.etree import ElementTree

import export_runs
import pytest
from federation import play, settings
from fedgrpo.common.messages.messages import Tally
from fedgrpo.server.run.metrics import ClientMetrics, EvaluationMetrics, RoundMetrics
from fedgrpo.server.run.reader import Run
from fedgrpo.server.run.store import Store
from fedgrpo.simulations.engine.simulated_clients import BUILTIN_POLICY
from fedgrpo.simulations.report.figures import INK, figures, write_figures
from fedgrpo.simulations.report.html import write_report
from fedgrpo.simulations.report.sentences import again, sentences


@pytest.fixture
def rose(tmp_path):
    """A run whose sampled accuracy rose from 0 to 7 of 20."""
    export_runs.make_run(tmp_path / "run 7", BUILTIN_POLICY, export_runs.settings("builtin"))
    return Run.read(tmp_path / "run 7")


def test_three_sentences_say_what_was_run_what_came_of_it_and_what_it_took(rose):
    what, outcome, cost = sentences(rose)
    clients = len(rose.rounds[0].clients)
    assert what.startswith(f"{clients} clients trained builtin by GRPO for {len(rose.rounds)} of 3 rounds, ")
    assert outcome.startswith("Held-out accuracy, sampled, rose: 0.0% to 35.0% of 20 problems (+35.0 points, ")
    assert re.fullmatch(r"It took \d+ s in the rounds, .* MB up and .* MB down, with not one void .*\.", cost)


def test_a_change_that_may_be_chance_is_not_called_a_rise(rose):
    total = Tally(problems=20, correct=1, gained=1, lost=0)
    line = EvaluationMetrics(round=3, decoding="sampled", clients=("clinic-a",), total=total, classes={})
    Store(rose.folder).add_metrics(line)
    assert "did not change for sure: 0.0% to 5.0%" in sentences(Run.read(rose.folder))[1]


def test_the_command_that_does_it_again_can_be_pasted(rose):
    rose.files.inputs.write_text("")
    assert again(rose) == (f"fedgrpo simulate '{rose.files.settings}' --out {rose.folder.parent} --run 'run 7-again'")


def test_a_real_federation_cannot_be_done_again_from_here(tmp_path):
    run = play(settings(tmp_path))
    assert again(run) == ""
    page = write_report(run).read_text()
    assert "Do it again" not in page
    assert "naive weighted by effective-groups" in page  # not `auto`, which says nothing


def test_every_figure_says_its_values_and_has_the_colour_of_the_text(rose):
    for figure in figures(rose):
        svg = figure.svg()
        ElementTree.fromstring(svg)
        assert INK not in svg
        assert "currentColor" in svg
        assert 'role="img"' in svg
    accuracy = figures(rose)[0].svg()
    assert "sampled, strict from 0 to 0.35" in accuracy


def test_many_clients_are_drawn_alike_with_their_mean(rose):
    part = ClientMetrics(share=0.05, steps=1, examples=1, norm=1.0, clipped=False, reported={"reward/mean": 0.5})
    clients = {f"client-{i}": part for i in range(20)}
    line = RoundMetrics(round=4, seconds=1.0, bytes_up=1, bytes_down=1, update_norm=1.0, clients=clients)
    Store(rose.folder).add_metrics(line)
    svg = figures(Run.read(rose.folder))[1].svg()
    assert "mean of 22 clients from" in svg
    assert "client-19" not in svg


def test_figures_are_written_for_a_paper(rose, tmp_path, monkeypatch):
    monkeypatch.setattr("fedgrpo.simulations.report.figures.figures", lambda run: figures(run)[:1])
    paths = write_figures(rose, tmp_path / "figures")
    assert [path.name for path in paths] == ["held-out-accuracy.svg", "held-out-accuracy.png"]
    assert all(path.stat().st_size > 1000 for path in paths)
