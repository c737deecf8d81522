"""The dashboard shows what run folders hold, to this machine alone, and says what is wrong with what it cannot read."""

import json
import re
import shutil
import socket
import threading
import time
from pathlib import Path

import httpx
import pytest
from federation import play, settings
from fedgrpo.common.errors import ConfigError, RunError
from fedgrpo.common.storage.jsonl import append_line
from fedgrpo.common.web.guard import COOKIE, is_loopback
from fedgrpo.common.web.serve import Address, listen, serving
from fedgrpo.server.run.journal import Planned, append
from fedgrpo.server.run.lock import locked
from fedgrpo.server.run.reader import Run
from fedgrpo.simulations.dashboard import app
from fedgrpo.simulations.dashboard.app import dashboard_app
from fedgrpo.simulations.dashboard.columns import Columns
from fedgrpo.simulations.dashboard.run_view import RunView
from fedgrpo.simulations.dashboard.runs_folder import RunsFolder
from fedgrpo.simulations.dashboard.terminal import watch_run
from rich.console import Console
from starlette.testclient import TestClient

FORMAT_1 = Path(__file__).parents[1] / "server" / "format_1"
EVIL = "<img src=x onerror=alert(1)>\x1b[2J"


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    return play(settings(tmp_path_factory.mktemp("played"))).folder


@pytest.fixture
def folder(played, tmp_path):
    """A finished run of three rounds."""
    return Path(shutil.copytree(played, tmp_path / played.name))


def client_of(folder, token=""):
    return TestClient(dashboard_app(RunsFolder(folder), token=token), base_url="http://localhost")


# --- what is read -----------------------------------------------------------------------------------------------------


def test_the_figures_are_those_of_the_run(folder):
    run = Run.read(folder)
    view = RunView(folder, "run")
    view.update()
    shown = view.overview()
    assert (shown["state"], shown["round"], shown["rounds"]) == ("finished", len(run.rounds), len(run.rounds))
    assert shown["means"]["reward/mean"] == pytest.approx(run.rewards(), abs=1e-6)
    assert shown["of_round"]["round/bytes-up"] == [line.bytes_up for line in run.rounds]
    assert shown["after"] == pytest.approx(run.after.accuracy)
    assert [point["round"] for point in shown["accuracy"]["sampled"]] == [e.round for e in run.sampled]
    assert {person["name"] for person in shown["people"]} == {name for line in run.rounds for name in line.clients}
    first, *_ = shown["people"]
    mine = [line.clients[first["name"]] for line in run.rounds if first["name"] in line.clients]
    assert first["bytes_up"] == sum(part.bytes_up for part in mine)
    assert first["reward"] == pytest.approx(mine[-1].reward, abs=1e-6)
    assert shown["events"][-1]["text"] == f"finished after round {len(run.rounds)}"


def test_one_metric_of_every_client_by_round(folder):
    run = Run.read(folder)
    view = RunView(folder, "run")
    view.update()
    found = view.client_metric("reward/mean")
    assert found["at"] == [line.round for line in run.rounds]
    for name, values in found["clients"].items():
        expected = [line.clients[name].reward if name in line.clients else None for line in run.rounds]
        assert values == pytest.approx(expected, abs=1e-6)
    assert view.client_metric("of/nothing")["clients"] == {}


def test_a_run_is_read_on_as_it_goes_on(folder, tmp_path):
    growing = tmp_path / "growing"
    shutil.copytree(folder, growing)
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    events = (folder / "journal.jsonl").read_text().splitlines(keepends=True)
    (growing / "metrics.jsonl").write_text("")
    (growing / "journal.jsonl").write_text(events[0])
    view = RunView(growing, "run")
    assert view.update()
    assert not view.update()
    for file, whole in (("metrics.jsonl", lines), ("journal.jsonl", events[1:])):
        for line in whole:
            with (growing / file).open("a") as more:
                more.write(line)
            assert view.update()
    at_once = RunView(folder, "run")
    at_once.update()
    assert view.overview() | {"version": 0} == at_once.overview() | {"version": 0}


def test_a_client_that_joins_late_or_reports_less_has_gaps(tmp_path):
    file = tmp_path / "metrics.jsonl"
    one = {"update/share": 0.5, "reward/mean": 1.0}
    for number, clients in enumerate([{"a": one}, {"a": one, "b": one}, {"b": {"update/share": 1.0}}], start=1):
        append_line(file, {"kind": "round", "round": number, "clients": clients})
    columns = Columns(file)
    columns.update()
    assert columns.by_client("reward/mean") == {"a": [1.0, 1.0, None], "b": [None, 1.0, None]}
    assert columns.mean("reward/mean") == [1.0, 1.0, None]
    assert columns.last("reward/mean", "b") == 1.0
    assert columns.taken("b") == 2


def test_a_run_of_the_first_format_is_shown(tmp_path):
    shutil.copytree(FORMAT_1, tmp_path / "old")
    run = Run.read(tmp_path / "old")
    view = RunView(tmp_path / "old", "old")
    view.update()
    shown = view.overview()
    assert shown["of_round"]["round/seconds"] == pytest.approx([line.seconds for line in run.rounds])
    assert [person["share"] for person in shown["people"]] == pytest.approx(
        [run.rounds[-1].clients[person["name"]].share for person in shown["people"]]
    )


def test_who_is_at_work_and_whose_update_has_arrived(folder):
    clients = sorted(Run.read(folder).rounds[0].clients)
    line = Planned(round=9, attempt=1, cohort=tuple(clients), adapter="00")
    append(folder / "journal.jsonl", line, time.time())
    (folder / "inbox").mkdir(exist_ok=True)
    (folder / "inbox" / f"{clients[0]}.f4").write_bytes(b"")
    view = RunView(folder, "run")
    with locked(folder):
        view.update()
        doing = {person["name"]: person["doing"] for person in view.overview()["people"]}
        assert view.state() == "running"
    assert doing[clients[0]] == "update received"
    assert doing[clients[1]] == "round 9: working"
    assert view.state() == "interrupted"


# --- what cannot be read ----------------------------------------------------------------------------------------------


def test_a_damaged_run_is_named_and_does_not_hide_the_others(folder):
    broken = folder.parent / "broken"
    shutil.copytree(folder, broken)
    with (broken / "metrics.jsonl").open("a") as file:
        file.write("{}\n")
    client = client_of(folder.parent)
    runs = {run["name"]: run for run in client.get("/api/runs").json()["runs"]}
    assert runs[folder.name]["state"] == "finished"
    assert runs["broken"]["state"] == "damaged"
    assert "metrics.jsonl is damaged: kind is None" in runs["broken"]["error"]
    answer = client.get("/api/run", params={"name": "broken"})
    assert answer.status_code == 422
    assert "metrics.jsonl is damaged" in answer.json()["error"]


@pytest.mark.parametrize(
    "line", ['{"event":"<b>","time":1}', '{"event":"COMMITTED","time":1}', '{"event":"PLANNED","round":"1"}', "[]"]
)
def test_a_damaged_journal_is_an_error_that_names_it(folder, line):
    with (folder / "journal.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(RunError, match="journal.jsonl"):
        RunView(folder, "run").update()


@pytest.mark.parametrize("name", ["../secret", "/etc", "", "run/../../x", "nothing"])
def test_only_runs_of_the_folder_are_shown(folder, name):
    answer = client_of(folder.parent).get("/api/run", params={"name": name})
    assert answer.status_code == 404


def test_a_folder_that_is_missing_is_told(tmp_path):
    with pytest.raises(ConfigError, match="is not a folder"):
        RunsFolder(tmp_path / "nothing")


def test_a_single_run_and_nested_runs_are_found(folder, tmp_path):
    assert RunsFolder(folder).names() == [folder.name]
    assert RunsFolder(folder).view(folder.name).state() == "finished"
    nested = tmp_path / "study" / "runs" / "arm" / "seed-0"
    shutil.copytree(folder, nested)
    assert "study/runs/arm/seed-0" in RunsFolder(tmp_path).names()


def test_texts_of_others_are_shown_as_text(folder):
    text = (folder / "metrics.jsonl").read_text()
    name = sorted(Run.read(folder).rounds[0].clients)[0]
    (folder / "metrics.jsonl").write_text(text.replace(json.dumps(name), json.dumps(EVIL)))
    append_line(
        folder / "samples.jsonl", {"round": 0, "client": EVIL, "question": EVIL, "before": "a\nb", "after": EVIL}
    )
    client = client_of(folder.parent)
    for path in ("run", "samples", "metric?metric=reward/mean&"):
        answer = client.get(f"/api/{path}{'' if '?' in path else '?'}name={folder.name}")
        assert answer.status_code == 200
        assert "\\u001b" not in answer.text
        assert answer.headers["content-type"] == "application/json"
    (sample,) = client.get("/api/samples", params={"name": folder.name}).json()
    assert sample["before"] == "a\nb"


# --- who may see it ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["localhost", "localhost:8017", "127.0.0.1:8017", "[::1]:8017"])
def test_this_machines_names_are_answered(folder, host):
    assert client_of(folder).get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:8017", "", "127.0.0.1.nip.io"])
def test_another_name_that_points_here_is_not_answered(folder, host):
    assert client_of(folder).get("/api/runs", headers={"host": host}).status_code == 421


def test_beyond_this_machine_a_token_is_needed(folder):
    client = client_of(folder, token="right")
    for path in ("/", "/api/runs", "/static/dashboard.js", "/?token=wrong"):
        assert client.get(path, headers={"host": "lab:8017"}).status_code == 401, path
    first = client.get("/?token=right", headers={"host": "lab:8017"})
    assert first.status_code == 200
    assert "HttpOnly; SameSite=Strict" in first.headers["set-cookie"]
    cookie = {"host": "lab:8017", "cookie": f"{COOKIE}=right"}
    assert TestClient(client.app).get("/api/runs", headers=cookie).status_code == 200


def test_every_answer_forbids_what_the_page_does_not_need(folder):
    for path in ("/", "/api/runs", "/static/dashboard.js"):
        headers = client_of(folder).get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_nothing_can_be_changed(folder):
    for method in ("post", "put", "delete", "patch"):
        assert getattr(client_of(folder), method)("/api/runs").status_code == 405


def test_the_page_names_no_other_machine():
    static = Path(app.__file__).parent / "static"
    files = [*static.glob("*"), *static.glob("vendor/*.js"), *static.glob("vendor/*.css")]
    named = {
        url
        for file in files
        if file.is_file()
        for url in re.findall(r"(?:https?|wss?):\/\/[^\"'` ]+", file.read_text())
    }
    assert named <= {"http://www.w3.org/2000/svg", "https://github.com/leeoniya/uPlot"}, named
    assert len(files) > 5


def test_a_port_in_use_is_told(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot be served on 127.0.0.1, port {port}: .*another --port"):
            listen("127.0.0.1", port)


def test_only_loopback_needs_no_token():
    assert [is_loopback(host) for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "lab")] == [False] * 4
    address = listen("0.0.0.0", 0)
    address.socket.close()
    assert len(address.token) >= 20


# --- live -------------------------------------------------------------------------------------------------------------


def test_an_event_is_told_within_two_seconds(folder):
    address = listen("127.0.0.1", 0)
    port = address.socket.getsockname()[1]
    told = []

    def read(response):
        for line in response.iter_lines():
            if line.startswith("data: "):
                told.append((time.monotonic(), line))
                if len(told) == 2:
                    return

    with (
        serving(dashboard_app(RunsFolder(folder.parent)), Address(address.socket, "127.0.0.1", "")),
        httpx.stream(
            "GET", f"http://127.0.0.1:{port}/api/changes", params={"run": folder.name}, timeout=20
        ) as response,
    ):
        reader = threading.Thread(target=read, args=(response,))
        reader.start()
        while not told:
            time.sleep(0.05)
        written = time.monotonic()
        append(folder / "journal.jsonl", Planned(round=9, attempt=1, cohort=("a",), adapter="0"), time.time())
        reader.join(timeout=10)
    assert len(told) == 2
    assert told[1][0] - written < 2


def test_watch_prints_what_happened_and_ends_with_the_run(folder):
    console = Console(width=120, record=True, force_terminal=False)
    watch_run(folder, console)
    lines = console.export_text().splitlines()
    assert lines[0].endswith("the run began")
    assert lines[-1].endswith(f"finished after round {len(Run.read(folder).rounds)}")


def test_watch_prints_events_as_json_lines(folder, run):
    status, out, _ = run("watch", folder, "--format", "json")
    events = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert events[0]["event"] == "CREATED"
    assert events[-1]["event"] == "FINISHED"
    assert all(event["time"] > 0 and event["text"] for event in events)


def test_watch_draws_a_picture_on_a_terminal(folder):
    console = Console(width=120, record=True, force_terminal=True)
    watch_run(folder, console)
    text = console.export_text()
    assert "finished" in text
    assert "groups with signal" in text
    assert "accuracy, sampled" in text


def test_watch_of_a_folder_without_a_run_is_an_error(run, tmp_path):
    status, _, err = run("watch", tmp_path)
    assert status != 0
    assert "is not a run folder" in err
