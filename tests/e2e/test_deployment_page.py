"""The blocks of docs/deployment.md, run as they stand: Flower's own commands, two organisations on one machine."""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from checkout import ROOT
from fedgrpo.common.cli.ports import free_ports, listens
from fedgrpo.server.run.reader import Run
from test_deployment import fedgrpo, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.deployment, pytest.mark.timeout(600)]
NAMES = ("clinic-a", "clinic-b")
HEADING = "## With Flower's own commands"
SCENARIO = """
[federation]
rounds = 2
start-clients = 2
[evaluation]
every = 0
[train]
steps-per-round = 2
[grpo]
max-completion-length = 40
"""


def blocks():
    """The section's shell blocks and its additions to the scenario, in order."""
    section = (ROOT / "docs" / "deployment.md").read_text().partition(HEADING)[2].partition("\n## ")[0]
    assert section, f"docs/deployment.md has no section {HEADING!r}"
    fenced = re.findall(r"^```(\w+)\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return [body for kind, body in fenced if kind == "bash"], [body for kind, body in fenced if kind == "toml"]


def shell(*texts):
    """A block as a person would paste it, after the exports of its terminal."""
    return ["bash", "-e", "-c", "\n".join(texts)]


def surroundings():
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": programs, "OMP_NUM_THREADS": "1"}


@contextmanager
def terminal(*texts, folder, log):
    """A block that runs until it is ended, in a terminal of its own."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            shell(*texts), cwd=folder, stdout=output, stderr=output, start_new_session=True, env=surroundings()
        )
    try:
        yield
        assert process.poll() is None, log.read_text()
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=40)


@pytest.fixture
def prepared(tmp_path):
    """(the page's blocks on this test's ports, the ports): an operator's folder and two organisations' folders."""
    gateway, superlink, *_ = ports = free_ports(4)
    where = ("--host", "127.0.0.1", "--bind", "127.0.0.1", "--port", gateway, "--superlink-port", superlink)
    fedgrpo("server", "init", tmp_path / "federation", *where)
    for name in NAMES:
        folder = tmp_path / name
        folder.mkdir()
        rows = [{"question": f"What is {k} + {k + 1}?", "answer": str(2 * k + 1)} for k in range(1, 80)]
        (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        connection = ("--data", "questions.jsonl", "--superlink", f"127.0.0.1:{gateway}")
        fedgrpo("client", "init", "clinic.toml", "--privacy", "none", "--name", name, *connection, cwd=folder)
        (folder / "ca.crt").write_bytes((tmp_path / "federation" / "keys" / "ca.crt").read_bytes())
        (tmp_path / f"{name}.key.pub").write_bytes((folder / f"{name}.key.pub").read_bytes())
    commands, additions = blocks()
    ours = [
        c.replace("fed.example.org:8000", f"127.0.0.1:{gateway}").replace("18000", str(superlink)) for c in commands
    ]
    output = "".join(additions).replace("/srv/fedgrpo", str(tmp_path))
    (tmp_path / "scenario.toml").write_text(SCENARIO + output)
    return tmp_path, ours, ports


def pasted(*texts, folder, check):
    """A block that ends by itself."""
    command, more = shell(*texts), {"cwd": folder, "env": surroundings(), "timeout": 240}
    return subprocess.run(command, check=check, capture_output=True, text=True, **more)


def second(text, name, port=9094):
    """A block as the organisation of this name writes it."""
    return text.replace("clinic-a", name).replace("9094", str(port))


def test_flowers_own_commands_carry_two_organisations_on_one_machine(prepared):
    folder, (operator, superlink, superexec, gateway, organisation, learner, supernode, last), ports = prepared
    register, run = last.strip().splitlines()
    with ExitStack() as stack:

        def start(*texts, at, log, ready):
            stack.enter_context(terminal(*texts, folder=at, log=log))
            wait_until(ready)

        start(operator, superlink, at=folder, log=folder / "superlink.log", ready=lambda: listens(ports[1]))
        start(operator, superexec, at=folder, log=folder / "superexec.log", ready=lambda: True)
        start(operator, gateway, at=folder, log=folder / "gateway.log", ready=lambda: listens(ports[0]))
        for name in NAMES:
            pasted(operator, second(register, name), folder=folder, check=True)
        for name, port in zip(NAMES, ports[2:], strict=True):
            at = folder / name
            socket, log = at / "state" / "learner.sock", at / "supernode.log"
            start(organisation, learner, at=at, log=at / "learner.log", ready=socket.exists)
            node = second(supernode, name, port)
            start(organisation, node, at=at, log=log, ready=lambda log=log: "SuperNode ID" in log.read_text())

        done = pasted(operator, run, folder=folder, check=True)
        for said in ("clinic-a joined", "round 1: clinic-b", "round 2 committed: 2 of 2 updates", "greedy accuracy"):
            assert said in done.stdout
        (made,) = (folder / "federation" / "runs").iterdir()
        assert Run.read(made).result()["finished"]

        scenario = folder / "scenario.toml"
        few = "[federation]\nmin-clients = 3\njoin-timeout-s = 1.0\n"
        scenario.write_text(scenario.read_text().replace("[federation]\n", few))
        failed = pasted(operator, run, folder=folder, check=False)
        assert "of the 3 clients needed have joined" in failed.stdout
        assert failed.returncode == 0, "docs/deployment.md says: the exit status does not tell how the run ended"
