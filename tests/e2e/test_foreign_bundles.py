"""Foreign app bundles at an organisation: nothing of them is run, unpacked or written; the accepted one is answered.

First against Flower's own SuperExec and Runtime API, a process for each bundle, then through a real SuperLink.
"""

import hashlib
import json
import os
import sqlite3
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from fedgrpo.client.relay.executor_folder import make_executors
from fedgrpo.common.cli.ports import free_ports
from fedgrpo.common.messages import wire
from fedgrpo.common.settings.bundle import installed_bundle, installed_sha256
from fedgrpo.common.settings.run_config import RunConfig
from fedgrpo.common.storage.jsonl import read_lines
from fedgrpo.server.operator.flwr_cli import Flower
from fedgrpo.server.operator.server_folder import ServerFolder, write_app
from foreign_bundles import FLOWER_RUNS, foreign_bundles, marking
from organisations import organisation_file
from runtime_api import AGENT_APP, CLIENT_APP, runtime_api
from test_deployment import command_line, fedgrpo, running, wait_until

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.deployment,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore:Duplicate name"),
]
REFUSED = {"protocol": wire.PROTOCOL, "error": "policy.app-sha256"}
FLOWERS = Path(sys.executable).parent
AT_ONCE = 4


@contextmanager
def superexec(address, programs, home, log):
    """Flower's SuperExec, which starts the programs of a folder."""
    more = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.05", "FLWR_HOME": str(home)}
    command = [programs / "flower-superexec", "--insecure", "--runtime-api-address", address]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, **more, "PATH": str(programs)}, cwd=log.parent
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=20)


def answers(node, messages):
    """The reply's header for each (bundle, what is said of it), a few processes at a time."""
    found = {}
    for first in range(1, len(messages) + 1, AT_ONCE):
        runs = range(first, min(first + AT_ONCE, len(messages) + 1))
        for run in runs:
            bundle, said = messages[run - 1]
            node.receive(run, bundle, **said)
        found |= {run: node.header(run, seconds=120) for run in runs}
    return [found[run] for run in sorted(found)]


def files_under(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_nothing_of_a_foreign_bundle_is_run_and_the_accepted_one_is_answered(tmp_path):
    mark, made, home = tmp_path / "mark", tmp_path / "made", tmp_path / "flwr"
    made.mkdir()
    own = organisation_file(tmp_path)
    foreign = foreign_bundles(mark, made)
    before = files_under(made)
    assert len(foreign) >= 20
    assert installed_bundle() not in foreign.values()
    refused = [(bundle, {"task": AGENT_APP if "Agent" in name else CLIENT_APP}) for name, bundle in foreign.items()]
    refused += [
        (installed_bundle(), {"task": AGENT_APP}),
        (foreign["a changed stub"], {"named": installed_sha256()}),
        (foreign["a changed stub"], {"fab_id": "one/two/three"}),
        (foreign["a changed stub"], {"kind": "query.something"}),
    ]
    names = [*foreign, "our own as an AgentApp", "our own in name", "an impossible name", "a message of another kind"]
    with (
        runtime_api({"config-path": str(own.file)}) as node,
        superexec(node.address, make_executors(tmp_path / "executors"), home, tmp_path / "log"),
    ):
        found = answers(node, [*refused, (installed_bundle(), {})])
    *refusals, last = found
    assert dict(zip(names, refusals, strict=True)) == dict.fromkeys(names, REFUSED)
    assert last == {"protocol": wire.PROTOCOL}, "the accepted bundle is answered"
    assert not mark.exists()
    assert not (home / "apps").exists()
    assert files_under(made) == before
    assert len(read_lines(own.egress_record)) == len(found)
    said = (tmp_path / "log").read_text()
    assert said.count("The server's app bundle") == len(refused)
    for name in ("a changed stub", "one byte changed", "nothing"):
        assert hashlib.sha256(foreign[name]).hexdigest() in said


def test_flowers_own_executor_would_run_them(tmp_path):
    """What the test above does not find is there to be found."""
    mark, made = tmp_path / "mark", tmp_path / "made"
    made.mkdir()
    own = organisation_file(tmp_path)
    foreign = foreign_bundles(mark, made)
    with (
        runtime_api({"config-path": str(own.file)}) as node,
        superexec(node.address, FLOWERS, tmp_path / "flwr", tmp_path / "log"),
    ):
        answers(node, [(foreign[name], {}) for name in FLOWER_RUNS])
    assert set(mark.read_text().splitlines()) == set(FLOWER_RUNS)


def config(**values):
    base = {
        "federation.rounds": 1,
        "federation.min-clients": 1,
        "federation.min-updates": 1,
        "federation.join-timeout-s": 90.0,
        "evaluation.every": 0,
        "evaluation.problems": 10,
        "train.steps-per-round": 2,
        "grpo.max-completion-length": 24,
    }
    return RunConfig().with_values({**base, **values})


@pytest.fixture
def federation(tmp_path):
    """(the operator's folder, an organisation's file): the server is up, the organisation not yet."""
    gateway, superlink = free_ports(2)
    where = ("--host", "127.0.0.1", "--bind", "127.0.0.1", "--port", gateway, "--superlink-port", superlink)
    fedgrpo("server", "init", tmp_path / "server", *where)
    file = tmp_path / "clinic" / "clinic.toml"
    file.parent.mkdir()
    rows = [{"question": f"What is {k} + {k + 1}?", "answer": str(2 * k + 1)} for k in range(1, 120)]
    (file.parent / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    connection = ("--data", "train.jsonl", "--superlink", f"127.0.0.1:{gateway}")
    fedgrpo("client", "init", file, "--privacy", "none", "--name", "clinic", *connection)
    text = file.read_text().replace("min-members = 2 ", "min-members = 1 ")
    file.write_text(text.replace('"ca.crt"', json.dumps(str(tmp_path / "server" / "keys" / "ca.crt"))))
    with running("server", "up", tmp_path / "server", log=tmp_path / "server.log"):
        wait_until(lambda: "ready" in (tmp_path / "server.log").read_text())
        fedgrpo("keys", "register", tmp_path / "server", file.parent / "clinic.key.pub", "--name", "clinic")
        yield ServerFolder.read(tmp_path / "server"), file


def submit(server, settings, name):
    """The submitting process of a run, once its ServerApp is at work."""
    scenario = server.path / f"{name}-scenario.toml"
    scenario.write_text(settings.to_toml())
    words = ("server", "submit", server.path, scenario, "--run", name, "--format", "json")
    with (server.path / f"{name}.log").open("wb") as output:
        process = subprocess.Popen(command_line(words), stdout=output, stderr=output)
    wait_until((server.runs / name).exists)
    return process


def send_instead(server, content):
    """Have the SuperLink send other bytes under the hash of our bundle."""
    with sqlite3.connect(server.database, timeout=30) as database:
        changed = database.execute("UPDATE fab SET content = ? WHERE fab_hash = ?", (content, installed_sha256()))
        assert changed.rowcount == 1


def run_folder_app(server, app, settings):
    """Have Flower run the app of a folder, as `flwr run` does for whoever reaches the SuperLink; how it ended."""
    settings_file = app.parent / f"{app.name}.toml"
    settings_file.write_text(settings.to_toml())
    flower = Flower(server)
    shown = flower._json("run", str(app), "fedgrpo", "--run-config", str(settings_file))
    wait_until(lambda: flower.status(int(shown["run-id"])).startswith("finished"), 120)
    return flower.status(int(shown["run-id"]))


def foreign_app(folder, mark):
    """The folder of our own app, with a changed stub for the clients."""
    stub = write_app(folder) / "client" / "app.py"
    stub.write_bytes(marking(mark, "run", stub.read_text()))
    return folder


def test_a_real_superlink_gets_a_code_or_no_answer_and_our_own_run_is_whole(federation, tmp_path):
    server, file = federation
    mark, log = tmp_path / "mark", tmp_path / "client.log"
    elsewhere = tmp_path / "foreign-runs"
    short = {"federation.join-timeout-s": 30.0}
    with running("client", "up", file, log=log):
        wait_until(lambda: "connected to" in log.read_text())
        settings = config(**short, **{"output.dir": str(elsewhere)})
        assert run_folder_app(server, foreign_app(tmp_path / "foreign", mark), settings) == "finished:failed"
        (reason,) = [json.loads(path.read_text())["reason"] for path in elsewhere.rglob("stopped.json")]
        assert "policy.app-sha256: it does not accept this run's app bundle" in reason
        wait_until(lambda: "refused a run" in log.read_text())

    misled = submit(server, config(**short), "misled")
    send_instead(server, foreign_bundles(mark, tmp_path)["a changed stub"])
    with running("client", "up", file, log=log):
        wait_until(lambda: "SuperNode ended with status 3" in log.read_text())
        assert misled.wait(timeout=120) == 1
        assert "0 of the 1 clients needed have joined" in (server.path / "misled.log").read_text()
        send_instead(server, installed_bundle())

        own = submit(server, config(), "own")
        assert own.wait(timeout=300) == 0, (server.path / "own.log").read_text()
    done = json.loads((server.path / "own.log").read_text().splitlines()[-1])
    assert (done["state"], done["app_sha256"]) == ("finished", installed_sha256())
    assert not mark.exists()
    home = file.parent / "state" / "flwr"
    assert {path.name for path in home.iterdir()} & {"apps", "executors"} == {"executors"}
    assert {line["to_known_from"] for line in read_lines(file.parent / "egress.jsonl")} == {"supernode"}
