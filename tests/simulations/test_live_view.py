"""What a person sees while a simulation runs: what happens now, and how far it is."""

import io
import logging

import pytest
from fedgrpo.common.analysis.scores import score
from fedgrpo.common.messages.messages import Tally
from fedgrpo.server.run import events
from fedgrpo.simulations.engine.progress import LOGGER, Reporter
from fedgrpo.simulations.engine.runner import scenario
from fedgrpo.simulations.report.live_view import _LiveView, _PlainLines, watching
from rich.console import Console


@pytest.fixture
def view():
    """A live view that listens, and its picture as text."""
    handler = _LiveView(scenario("builtin"))
    logger = logging.getLogger("fedgrpo")
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)

    def picture(width=100):
        console = Console(file=io.StringIO(), width=width)
        console.print(handler)
        return console.file.getvalue()

    yield picture
    logger.removeHandler(handler)
    logger.setLevel(before)


def evaluated(correct):
    return score(Tally(problems=300, correct=correct, gained=correct))


def test_the_first_evaluation_is_shown_with_how_far_each_client_is(view):
    assert "loading the model" in view()
    events.emit(events.EvaluationStarted(0, "greedy", ("client-0", "client-1")))
    assert "greedy evaluation before round 1" in view()
    assert "starting" not in view()
    Reporter("client-0", []).batch(1, 4)
    Reporter("client-1", []).batch(4, 4)
    shown = {line.split()[0]: line for line in view().splitlines() if "client-" in line}
    assert "evaluating: batch 1 of 4" in shown["client-0"]
    assert shown["client-1"].rstrip().endswith("evaluated")


def test_seconds_are_counted_from_the_start_also_while_nothing_is_trained(view, monkeypatch):
    now = __import__("time").monotonic()
    monkeypatch.setattr("time.monotonic", lambda: now + 125)
    assert "125 s" in view()


def test_sampled_and_greedy_accuracy_are_told_apart(view):
    for number, sampled, greedy in ((0, 60, 90), (15, 240, 30)):
        events.emit(events.Evaluated(number, "greedy", evaluated(greedy)))
        events.emit(events.Evaluated(number, "sampled", evaluated(sampled)))
    (line,) = [line for line in view().splitlines() if "accuracy" in line]
    assert "(sampled)" in line
    assert "20.0% → 80.0%" in line
    assert "greedy 30.0% → 10.0%" in line


@pytest.mark.parametrize("width", [60, 80])
def test_the_picture_is_whole_in_a_narrow_terminal(view, width):
    events.emit(events.EvaluationStarted(0, "sampled", ("client-0", "client-1", "client-2", "client-3")))
    assert "…" not in view(width)
    assert view(width).count("client-") == 4


def test_plain_lines_say_that_an_evaluation_began_and_leave_out_its_batches():
    stream = io.StringIO()
    handler = _PlainLines(stream)
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    try:
        Reporter("client-0", []).batch(1, 4)
    finally:
        LOGGER.removeHandler(handler)
    assert stream.getvalue() == ""
    assert str(events.EvaluationStarted(0, "greedy", ("a", "b"))) == "before round 1: 2 clients evaluate (greedy)"
    assert str(events.EvaluationStarted(3, "sampled", ("a",))) == "after round 3: 1 client evaluate (sampled)"


def test_quiet_shows_nothing(capsys):
    with watching(scenario("builtin"), resumed=False, quiet=True):
        events.emit(events.EvaluationStarted(0, "greedy", ("client-0", "client-1")))
        logging.getLogger("fedgrpo").warning("a warning")
    out, err = capsys.readouterr()
    assert out + err == ""
