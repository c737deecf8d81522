"""A study: cells know how far they are, are played once, and come to a table that is right."""

import fcntl
import json
import os
import re
import signal
import sys
import threading
import time

import pytest
from fedgrpo.common.errors import ConfigError
from fedgrpo.server.run.journal import Finished
from fedgrpo.server.run.reader import Run
from fedgrpo.simulations.study.comparison import compared
from fedgrpo.simulations.study.figure import draw
from fedgrpo.simulations.study.outcomes import gather
from fedgrpo.simulations.study.play import Interrupted, Progress, play
from fedgrpo.simulations.study.study_runs import StudyRun
from fedgrpo.simulations.study.table import markdown, rows
from fedgrpo.simulations.study.view import time_left, watching
from study_runs import STUDY, begun, finished, planned

pytestmark = pytest.mark.e2e

RIGHT = {
    "central/seed-0": "1100",
    "central/seed-1": "1000",
    "naive/seed-0": "1110",
    "naive/seed-1": "1000",
    "local/seed-0-client-0": "1000",
    "local/seed-0-client-1": "1111",
    "local/seed-1-client-0": "0000",
    "local/seed-1-client-1": "0001",
}


def found(study, study_runs):
    return compared(study, *gather(study, {study_run: study_run.state() for study_run in study_runs.values()}))


def test_a_cell_says_how_far_it_is(tmp_path):
    _, study_runs = planned(tmp_path)
    study_run = study_runs["naive/seed-1"]
    assert study_run.folder == tmp_path / "out" / "which" / "runs" / "naive" / "seed-1"
    assert study_run.state() == "new"
    assert study_run.command()[3:] == [
        "simulate", str(study_run.scenario), "--out", str(study_run.folder.parent), "--run", "seed-1", "--workers=1",
        "--format=json",
    ]  # fmt: skip
    assert study_run.scenario.read_text() == study_run.config.to_toml()
    begun(study_run, "PLANNED", "COMMITTED", "PLANNED")
    assert (study_run.state(), study_run.round) == ("unfinished", 1)
    assert study_run.command()[3:] == ["simulate", "--resume", str(study_run.folder), "--workers=1", "--format=json"]
    with (study_run.folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert study_run.state() == "busy"
    begun(study_run, "PLANNED", "COMMITTED", "FINISHED")
    assert study_run.state() == "finished"


def test_a_cell_that_was_played_with_other_settings_is_refused_with_what_to_do(tmp_path):
    _, study_runs = planned(tmp_path)
    finished(study_runs["naive/seed-0"], "1111")
    _, changed = planned(tmp_path, STUDY.replace('"federation.rounds" = 1', '"federation.rounds" = 2'))
    with pytest.raises(ConfigError, match="federation.rounds was 1 and is 2. Put the settings back, remove that"):
        changed["naive/seed-0"].state()
    assert changed["naive/seed-1"].state() == "new"


def test_the_table_of_two_seeds_and_four_problems(tmp_path):
    study, study_runs = planned(tmp_path)
    for name, right in RIGHT.items():
        finished(study_runs[name], right)
    result = found(study, study_runs)
    assert [[*row[:2], *row[3:]] for row in rows(result)] == [
        ["central", "37.5%", "50.0%, 25.0%", "–", "–", "3"],
        ["naive", "50.0%", "+25.0, +0.0", "1.00", "2.00", "3"],
        ["local (mean of 2 clients)", "37.5%", "+12.5, -12.5", "–", "–", "6"],
        ["local (best client)", "62.5%", "+50.0, +0.0", "", "", ""],
        ["local (worst client)", "12.5%", "25.0%, 0.0%", "", "", ""],
    ]
    assert [row[2][:6].strip() for row in rows(result)] == ["–", "+12.5", "+0.0 (", "+25.0", "–"]
    assert result["sentences"] == [  # Student's t of two seeds, which is wider than the bootstrap
        "no difference was found between naive and central (-146.3 to +171.3)",
        "no difference was found between local (mean of 2 clients) and central (-158.8 to +158.8)",
        "no difference was found between local (best client) and central (-292.6 to +342.6)",
    ]
    assert result["arms"]["local"]["curve"] == {
        "rounds": [0, 1], "mean": [0.0, 0.375], "low": [0.0, 0.125], "high": [0.0, 0.625],
    }  # fmt: skip
    page = markdown(result)
    assert page.startswith("# Which is better?\n\n| arm | accuracy | against central (95 % interval) | each seed |")
    assert "Rollouts that a policy learns from: central 256, but local 128." in page
    assert "2 seeds, 4 held-out problems." in page


def test_seeds_that_are_not_finished_are_named_and_do_not_count(tmp_path):
    study, study_runs = planned(tmp_path)
    for name, right in RIGHT.items():
        if name != "local/seed-1-client-1":
            finished(study_runs[name], right)
    begun(study_runs["naive/seed-0"], "PLANNED")
    result = found(study, study_runs)
    assert result["not_counted"] == {"naive/seed-0": "unfinished", "local/seed-1-client-1": "new"}
    assert list(result["arms"]["local"]["rows"][0]["by_seed"]) == ["0"]
    assert result["arms"]["naive"]["against"][0]["by_seed"] == {"1": 0.0}
    assert "Not all of the 2 seeds are there: naive 1, local 1." in markdown(result)
    assert "Not counted: naive/seed-0, local/seed-1-client-1." in markdown(result)


def test_a_run_without_all_of_its_answers_does_not_count(tmp_path):
    study, study_runs = planned(tmp_path)
    for name, right in RIGHT.items():
        finished(study_runs[name], right)
    file = study_runs["naive/seed-0"].folder / "answers.jsonl"
    file.write_text(file.read_text().replace('"1110", "problems": [0, 1, 2, 3]', '"111", "problems": [0, 1, 2]'))
    assert "3 of 4 held-out problems" in found(study, study_runs)["not_counted"]["naive/seed-0"]


@pytest.mark.parametrize("over_bytes", [False, True])
def test_the_same_result_draws_the_same_figure_without_a_network(tmp_path, over_bytes):
    study, study_runs = planned(tmp_path)
    for name, right in RIGHT.items():
        finished(study_runs[name], right)
    result = found(study, study_runs)
    for name in ("one.svg", "two.svg"):
        draw(result, tmp_path / name, over_bytes=over_bytes)
    figure = (tmp_path / "one.svg").read_text()
    assert figure == (tmp_path / "two.svg").read_text()
    assert "<dc:date>" not in figure
    assert ">naive<" in figure
    assert ("central (sends nothing)" in figure) == over_bytes


@pytest.fixture
def played(tmp_path, monkeypatch):
    """Cells whose command is a small Python program that gets the cell's journal as its argument."""
    _, study_runs = planned(tmp_path)

    def prepare(program):
        for study_run in study_runs.values():
            begun(study_run)
        words = [sys.executable, "-c", program]
        monkeypatch.setattr(StudyRun, "command", lambda self: [*words, str(self.folder / "journal.jsonl")])
        return list(study_runs.values())

    return prepare


ENDS = """import sys, json
open(sys.argv[1], "a").write(json.dumps({"event": "FINISHED", "round": 1, "adapter": "00"}) + "\\n")
"""


def test_no_more_runs_than_jobs_are_played_at_once_and_each_is_played_once(played):
    study_runs = played("import time; time.sleep(0.3)\n" + ENDS)
    seen = []
    done = play(study_runs, 3, lambda now: seen.append(len(now.running)))
    assert max(seen) == 3
    assert sorted(study_run.name for study_run in done.finished) == sorted(RIGHT)
    assert not done.failed
    for study_run in study_runs:
        assert len(study_run.journal.of(Finished)) == 1
    again = play(study_runs, 3, lambda now: None)
    assert len(again.finished) == len(study_runs)
    assert all(len(study_run.journal.of(Finished)) == 1 for study_run in study_runs)


def test_a_run_that_fails_is_told_and_does_not_lose_the_others(played):
    study_runs = played('import sys\nif "naive" in sys.argv[1]: sys.exit("no more disk")\n' + ENDS)
    done = play(study_runs, 4, lambda now: None)
    assert {study_run.name: said for study_run, said in done.failed.items()} == {
        "naive/seed-0": "exit status 1\nno more disk",
        "naive/seed-1": "exit status 1\nno more disk",
    }
    assert len(done.finished) == 6


def test_a_run_that_is_another_afterwards_fails_alone(played):
    other = ENDS.replace('sys.argv[1], "a"', 'sys.argv[1], "a" if "naive" not in sys.argv[1] else "w"')
    done = play(played(other), 4, lambda now: None)
    assert {study_run.name for study_run in done.failed} == {"naive/seed-0", "naive/seed-1"}
    assert all("was played with other settings than the study has now" in said for said in done.failed.values())
    assert len(done.finished) == 6


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_study_leaves_no_process_behind(played, number):
    study_runs = played("import time; time.sleep(60)")
    processes = {}

    def watch(now):
        processes.update(now.running)
        if len(processes) == 2:
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted, match="8 runs before the end. Give the same command again"):
        play(study_runs, 2, watch)
    assert len(processes) == 2
    assert all(process.poll() is not None for process in processes.values())


@pytest.mark.parametrize("orphan_is_first", [True, False])
def test_a_run_that_a_killed_study_left_behind_is_waited_for(played, tmp_path, orphan_is_first):
    """Also where it takes the run folder's lock only after our own process has started, which then has to give way."""
    started = tmp_path / "started"
    program = f"import pathlib, time; pathlib.Path({str(started)!r}).touch(); time.sleep(0.4); raise SystemExit('busy')"
    study_runs = played(program)[:1]
    lock = (study_runs[0].folder / ".lock").open("w")
    if orphan_is_first:
        fcntl.flock(lock, fcntl.LOCK_EX)

    def orphan():
        while not orphan_is_first and not started.exists():
            time.sleep(0.01)
        fcntl.flock(lock, fcntl.LOCK_EX)
        time.sleep(1.2)
        begun(study_runs[0], "COMMITTED", "FINISHED")
        lock.close()

    thread = threading.Thread(target=orphan)
    thread.start()
    done = play(study_runs, 1, lambda now: None)
    thread.join()
    assert done.finished == study_runs
    assert not done.failed
    assert started.exists() != orphan_is_first


def test_the_time_left_counts_the_work_and_not_the_runs(tmp_path):
    _, study_runs = planned(tmp_path)
    central, naive, local = (study_runs[name] for name in ("central/seed-0", "naive/seed-0", "local/seed-0-client-0"))
    assert (central.work, naive.work, local.work) == (8, 8, 4)
    assert time_left(Progress(waiting=[central]), 10.0) is None
    assert time_left(Progress(waiting=[central, local], finished=[naive]), 10.0) == pytest.approx(15.0)


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_tells_what_is_done_running_and_failed(tmp_path, monkeypatch, capsys, terminal):
    monkeypatch.setenv("FORCE_COLOR" if terminal else "NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    _, study_runs = planned(tmp_path)
    finished(study_runs["central/seed-0"], "1100")
    finished(study_runs["naive/seed-0"], "1110")
    begun(study_runs["central/seed-1"], "COMMITTED")
    states = {study_run: study_run.state() for study_run in study_runs.values()}
    with watching(states) as show:
        naive, failed = study_runs["naive/seed-0"], {study_runs["naive/seed-1"]: "exit status 1\nno more disk"}
        show(Progress(waiting=[], running={study_runs["central/seed-1"]: None}, finished=[naive], failed=failed))
    told = " ".join(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err).split())
    assert "no more disk" in told
    assert "75.0%" in told
    assert ("1 running, 1 failed" in told) == terminal
    assert ("central/seed-1 round 1 of 1" in told) == terminal


@pytest.mark.parametrize("terminal", [True, False])
def test_a_finished_run_is_read_once_however_often_progress_is_shown(tmp_path, monkeypatch, terminal):
    monkeypatch.setenv("FORCE_COLOR" if terminal else "NO_COLOR", "1")
    _, study_runs = planned(tmp_path)
    finished(study_runs["naive/seed-0"], "1110")
    naive, read = study_runs["naive/seed-0"], Run.read
    reads = []
    monkeypatch.setattr(Run, "read", lambda folder: reads.append(folder) or read(folder))
    with watching(dict.fromkeys(study_runs.values(), "new")) as show:
        for _ in range(3):
            show(Progress(waiting=[], finished=[naive]))
    assert reads == [naive.folder]


def test_a_table_of_what_is_there_plays_nothing(run, tmp_path):
    _, study_runs = planned(tmp_path)
    status, _, err = run("study", "which.toml", "--out", "out", "--table")
    assert (status, "holds no arm with a finished seed" in " ".join(err.split())) == (1, True)
    finished(study_runs["central/seed-0"], "1100")
    finished(study_runs["naive/seed-0"], "1111")
    status, out, _ = run("study", "which.toml", "--out", "out", "--table", "--format", "json")
    assert status == 0
    assert json.loads(out.splitlines()[-1])["arms"]["naive"]["rows"][0]["accuracy"] == 1.0
    assert {p.name for p in (tmp_path / "out" / "which").iterdir()} == {
        "runs", "result.json", "table.md", "figure.svg",
    }  # fmt: skip
    status, out, _ = run("study", "which.toml", "--out", "out", "--table")
    assert "central" in out
    assert "100.0%" in out


def test_a_smoke_run_is_marked_everywhere_and_compares_nothing(run, tmp_path):
    _, study_runs = planned(tmp_path, quick=True)
    for name, right in RIGHT.items():
        if "seed-0" in name:
            finished(study_runs[name], right * 10)
    status, out, err = run("study", "which.toml", "--out", "out", "--quick", "--table", "--format", "json")
    assert err == ""
    printed = json.loads(out.splitlines()[-1])
    folder = tmp_path / "out" / "which-quick"
    assert status == 0
    assert printed == json.loads((folder / "result.json").read_text())
    assert printed["quick"] is True
    assert printed["sentences"] == []
    assert [arm["against"] for arm in printed["arms"].values()] == [[], [], []]
    _, out, _ = run("study", "which.toml", "--out", "out", "--quick", "--table")
    for text in (out, (folder / "table.md").read_text()):
        assert "Smoke run (--quick)" in text
        assert "75.0%" in text
        for verdict in ("no difference", "better", "above", "below", "points", "against", "interval"):
            assert verdict not in text.replace("Which is better?", ""), verdict
    assert "smoke run" in (folder / "figure.svg").read_text()


def test_a_study_that_is_not_quick_is_not_called_a_smoke_run(tmp_path):
    study, study_runs = planned(tmp_path)
    for name, right in RIGHT.items():
        finished(study_runs[name], right)
    result = found(study, study_runs)
    assert result["quick"] is False
    assert "moke run" not in markdown(result)


def test_a_failed_run_makes_the_exit_status_and_the_rest_is_tabulated(run, tmp_path, monkeypatch):
    _, study_runs = planned(tmp_path)
    for name, right in RIGHT.items():
        if name != "naive/seed-1":
            finished(study_runs[name], right)
    monkeypatch.setattr(StudyRun, "command", lambda self: [sys.executable, "-c", "raise SystemExit('no more disk')"])
    status, out, err = run("study", "which.toml", "--out", "out", "--format", "json")
    assert status == 1
    assert "naive/seed-1 failed, exit status 1\nno more disk" in err
    result = json.loads(out.splitlines()[-1])
    assert list(result["not_counted"]) == ["naive/seed-1"]
    assert result["arms"]["naive"]["rows"][0]["by_seed"] == {"0": 0.75}


def test_what_is_wrong_is_found_before_anything_is_played(run, tmp_path):
    planned(tmp_path, STUDY.replace('"evaluation.problems" = 4', '"evaluation.problems" = 1'))
    status, _, err = run("study", "which.toml", "--out", "out")
    assert status == 1
    assert "naive/seed-0: 1 held-out problems are too few for 2 clients" in " ".join(err.split())
    assert not (tmp_path / "out").exists()
