"""Tripwires over a real run folder: in journal, events, result and report; once each, also when resumed."""

import io
import logging

import pytest
from federation import play, settings
from fedgrpo.client.learner.service.job_watcher import JobWatcher
from fedgrpo.common.analysis.reward_hacking import HackingWarning
from fedgrpo.common.messages import wire
from fedgrpo.common.messages.messages import EvaluateTask
from fedgrpo.common.settings.run_config import RunConfig
from fedgrpo.server.operator.journal_lines import JournalLines
from fedgrpo.server.run import journal
from fedgrpo.server.run.alarms import Alarms
from fedgrpo.server.run.events import Warned
from fedgrpo.server.run.journal import Journal
from fedgrpo.server.run.status import RunStatus
from fedgrpo.server.run.store import Store
from fedgrpo.simulations.report.html import write_report
from fedgrpo.simulations.report.live_view import _LiveView
from rich.console import Console

LOOPS = "completion/loop-share"


def looping(number, header, reply):
    if number == 2 and header["kind"] == "train":
        reply[wire.METRICS][LOOPS] = 0.9
    return reply


def silent(number, header, reply):
    """Organisations that let out no metric of their completions."""
    if header["kind"] == "join":
        told = reply[wire.HEADER]["metrics"].split(",")
        reply[wire.HEADER]["metrics"] = ",".join(name for name in told if not name.startswith("completion/"))
    if header["kind"] == "train":
        for name in [name for name in reply[wire.METRICS] if name.startswith("completion/")]:
            del reply[wire.METRICS][name]
    return reply


def warned(folder):
    return Journal.read(folder / "journal.jsonl").of(journal.Warned)


@pytest.fixture
def run(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="fedgrpo.federation")
    return play(settings(tmp_path, federation__rounds=4), looping)


def test_a_warning_stands_in_journal_events_result_and_report(run, caplog):
    (line,) = warned(run.folder)
    assert (line.round, line.tripwire, line.organisation) == (3, "loops", "client-2")
    said = [record.getMessage() for record in caplog.get_records("setup") if "WARNING" in record.getMessage()]
    assert said == [f"round 3: WARNING, loops: client-2: {line.text}"]
    assert run.result()["warnings"] == [{k: getattr(line, k) for k in ("tripwire", "organisation", "round", "text")}]
    page = write_report(run).read_text()
    assert "<h2>Warnings</h2>" in page
    assert line.text.split(":")[0] in page
    assert RunStatus.read(run.folder).state == "finished"


def test_the_operator_s_terminal_says_it(run):
    said: list[str] = []
    follower = JournalLines(run.folder, said.append)
    follower._journal_lines = 0  # as if it had watched from the beginning
    follower.catch_up()
    assert sum("round 3: WARNING, loops: client-2: 90 % of the completions repeat themselves" in s for s in said) == 1


def test_the_picture_of_a_simulation_shows_it():
    tripped = HackingWarning(tripwire="loops", organisation="client-2", round=3, text="they repeat themselves")
    view = _LiveView(RunConfig())
    view.emit(logging.makeLogRecord({"msg": str(tripped), "event": Warned(tripped)}))
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(view)
    assert "round 3: WARNING, loops: client-2: they repeat themselves" in console.export_text()


def test_what_was_told_is_not_told_again_and_what_a_crash_swallowed_is(run):
    file = run.folder / "journal.jsonl"
    Alarms(Store(run.folder))
    assert len(warned(run.folder)) == 1
    file.write_text("".join(line for line in file.read_text().splitlines(True) if '"WARNED"' not in line))
    Alarms(Store(run.folder)).look(4)
    assert [line.round for line in warned(run.folder)] == [3]


def test_clients_that_keep_their_metrics_back_trip_nothing_and_break_nothing(tmp_path):
    run = play(settings(tmp_path, federation__rounds=4), silent)
    assert warned(run.folder) == run.warnings() == []
    assert len(run.rounds) == 4


def test_a_share_above_one_is_refused(tmp_path):
    def absurd(number, header, reply):
        if number == 2 and header["kind"] == "train":
            reply[wire.METRICS][LOOPS] = 1.5
        return reply

    run = play(settings(tmp_path), absurd)
    assert run.rounds[0].refused == {"client-2": "metric-value"}


class Answer:
    def __init__(self, strict):
        self.strict = strict


def test_an_organisation_s_own_learner_logs_the_same(caplog, tmp_path):
    caplog.set_level(logging.INFO, logger="fedgrpo.learner")
    watcher = JobWatcher(lambda: None, RunConfig(), None)  # type: ignore[arg-type]  # no step is taken
    answers = [Answer(i % 2 == 0) for i in range(100)]

    def evaluated(number, temperature):
        task = EvaluateTask(federation="f", round=number, adapter=None, temperature=temperature)  # type: ignore[arg-type]
        watcher.answers(task, answers, answers, answers)

    evaluated(0, 1.0)
    for number in range(1, 8):
        watcher.trained(number, {"reward/mean": float(number), "reward/std": 1.0, LOOPS: 0.5 * (number > 4)})
        evaluated(number, 1.0)
        evaluated(number, 0.0)  # greedy is another accuracy
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [line.split(":")[0] + line.split(",")[1].split(":")[0] for line in said] == [
        "round 6 loops",
        "round 6 reward-without-accuracy",
    ]
    assert "50.0 % → 50.0 % of 100" in said[1]
