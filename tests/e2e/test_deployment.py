"""Three organisations, one SuperLink, TLS, registered keys: as an operator and three engineers would set it up.

Their folders hold different file formats and different private rewards. Everything that passes the gateway is
captured; the canaries planted in prompts, rewards, paths and exceptions must not be in it.
"""

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pyarrow as pa
import pytest
import uvicorn
from fedgrpo.client.organisation.settings import OrganisationFile
from fedgrpo.common.cli.ports import free_ports
from fedgrpo.common.settings import toml
from fedgrpo.common.settings.run_config import RunConfig
from fedgrpo.common.storage.jsonl import read_lines
from fedgrpo.server.operator.gateway import gateway
from fedgrpo.server.operator.server_folder import ServerFolder
from fedgrpo.server.run.reader import Run
from fedgrpo.simulations.engine.simulated_clients import client_name, divide
from pyarrow import parquet

pytestmark = [pytest.mark.e2e, pytest.mark.deployment, pytest.mark.timeout(900)]
CANARY = "CANARY-0815"
REWARDS = f"""
from pathlib import Path

def brief(completions, prompts, trainer_state=None, **columns):
    if trainer_state is not None and Path(__file__).with_name("fail").exists():
        raise ValueError("{CANARY}-exception " + str(prompts))
    return [0.2 * max(0.0, 1 - len(c[0]["content"]) / 400) for c in completions]
"""
SPECS = ("gsm8k", "correctness=1,strict-format=0.5", f"{CANARY}-rewards.py,correctness")
FORMATS = ("jsonl", "csv", "parquet")
CLIENTS = 3
ROLES = {"server": "SERVER", "keys": "SERVER", "client": "NODE", "simulate": "SIMULATION"}


def settings(**values):
    base = {
        "federation.rounds": 3,
        "federation.start-clients": CLIENTS,
        "federation.round-timeout-s": 120.0,
        "simulation.clients": CLIENTS,
        "simulation.problems": 240,
        "evaluation.problems": 60,
        "evaluation.every": 0,
        "grpo.max-completion-length": 44,
        "grpo.learning-rate": 0.004,
        "train.block-size": 8,  # what the policy of `client init` asks for: simulated clients then read the same blocks
        "simulation.rewards": ";".join(SPECS),
    }
    return RunConfig().with_values({**base, **values})


def python(role):
    """The Python of a role's environment, where `.ci/roles` has made one for each; else this one."""
    return os.environ.get(f"FEDGRPO_{role}_PYTHON", sys.executable)


def command_line(words):
    return [python(ROLES[words[0]]), "-m", "fedgrpo.common.cli.main", *map(str, words)]


def fedgrpo(*words, **more):
    command = command_line(words)
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=300, **more).stdout


@contextmanager
def running(*words, log):
    """A command in the background; ended as Ctrl-C ends it."""
    with log.open("wb") as output:
        process = subprocess.Popen(command_line(words), stdout=output, stderr=output, start_new_session=True)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=40)


@contextmanager
def recording_gateway(server, captured):
    """The gateway of the operator's folder in this process, with everything that organisations send kept."""
    inner = gateway(f"https://{server.superlink}", server.keys / "ca.crt", 16_000_000)

    async def app(scope, receive, send):
        body = bytearray()

        async def listening():
            message = await receive()
            body.extend(message.get("body", b""))
            return message

        await inner(scope, listening, send)
        captured.append(bytes(body) + repr((scope.get("path"), scope.get("headers"))).encode())

    (port,) = free_ports(1)
    tls = {"ssl_certfile": server.keys / "server.pem", "ssl_keyfile": server.keys / "server.key"}
    host = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", lifespan="off", **tls))
    thread = threading.Thread(target=host.run)
    thread.start()
    try:
        yield port
    finally:
        host.should_exit = True
        thread.join()


def write_data(path, problems):
    """Columns of other names than ours, and one that nobody asked for."""
    rows = [{"Frage": p.question, "Antwort": f"because {CANARY}\n#### {p.answer}", "patient": CANARY} for p in problems]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
    else:
        parquet.write_table(pa.Table.from_pylist(rows), path)


def write_organisation(folder, number, config, superlink):
    """What an engineer does: init, then edit the file."""
    name, kind = client_name(number), FORMATS[number]
    file = folder / f"{CANARY}-{number}" / "clinic.toml"
    file.parent.mkdir(parents=True)
    fedgrpo(
        "client", "init", file, "--privacy", "none", "--name", name, "--data", f"train.{kind}", "--superlink", superlink
    )
    shards, held_out = divide(config)
    write_data(file.parent / f"train.{kind}", shards[number])
    write_data(file.parent / f"held_out.{kind}", held_out[number::CLIENTS])
    (file.parent / f"{CANARY}-rewards.py").write_text(REWARDS)
    values = toml.flat(OrganisationFile.read(file).settings) | {
        "data.held-out": f"held_out.{kind}",
        "data.question": "Frage",
        "data.answer": "Antwort",
        "data.answer-after": "####",
        "prompt.system": "",
        "rewards.use": SPECS[number],
        "flower.root-certificates": str(folder / "server" / "keys" / "ca.crt"),
        "learner.python": python("LEARNER"),
        "learner.socket": f"/tmp/fedgrpo-test-{os.getpid()}-{number}.sock",
    }
    file.write_text(toml.to_toml(toml.with_values(OrganisationFile.read(file).settings, values)))
    return file


def wait_until(true, seconds=90):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "nothing came of it"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    """(folder, configuration, organisations' files, captured traffic, environment) of a federation that has run."""
    folder = tmp_path_factory.mktemp("federation")
    config = settings()
    ports = free_ports(2)
    where = ("--host", "127.0.0.1", "--bind", "127.0.0.1", "--port", ports[0], "--superlink-port", ports[1])
    fedgrpo("server", "init", folder / "server", *where)
    scenario = folder / "scenario.toml"
    scenario.write_text(config.to_toml())
    captured = []
    with running("server", "up", folder / "server", log=folder / "server.log"):
        wait_until(lambda: "ready" in (folder / "server.log").read_text())
        server = ServerFolder.read(folder / "server")
        with recording_gateway(server, captured) as port:
            files = [write_organisation(folder, k, config, f"127.0.0.1:{port}") for k in range(CLIENTS)]
            for k, file in enumerate(files):
                name = client_name(k)
                fedgrpo("keys", "register", folder / "server", file.parent / f"{name}.key.pub", "--name", name)
            with (
                running("client", "up", files[0], log=folder / "0.log"),
                running("client", "up", files[1], log=folder / "1.log"),
                running("client", "up", files[2], log=folder / "2.log"),
            ):
                submit = ("server", "submit", folder / "server", scenario, "--format", "json")
                done = json.loads(fedgrpo(*submit, "--run", "pilot").splitlines()[-1])
                assert done["state"] == "finished"
                (files[2].parent / "fail").touch()  # a reward that fails, with a private text in what it raises
                values = ("--set", "federation.rounds=1", "--set", "federation.seed=1")
                fedgrpo(*submit, "--run", "failing", *values)
                status = json.loads(fedgrpo("server", "status", folder / "server", "--format", "json"))
    return folder, config, files, b"".join(captured), status


def test_three_organisations_make_the_adapter_that_the_simulation_makes(federation):
    folder, config, _, _, _ = federation
    real = Run.read(folder / "server" / "runs" / "pilot").result()
    (folder / f"{CANARY}-rewards.py").write_text(REWARDS)
    (folder / "sim.toml").write_text(config.to_toml())
    command = ("simulate", folder / "sim.toml", "--out", folder / "sim", "--run", "one", "--format", "json")
    simulated = json.loads(fedgrpo(*command, cwd=folder).splitlines()[-1])
    assert real["finished"]
    assert len(real["accuracy"]["clients"]) == CLIENTS
    assert real["adapter_sha256"] == simulated["adapter_sha256"]
    assert real["accuracy"]["after"] == simulated["accuracy"]["after"]


def test_nothing_private_is_in_what_passed_the_gateway(federation):
    _, _, files, captured, _ = federation
    assert len(captured) > 1_000_000  # updates of three clients over three rounds: the traffic was captured
    assert b"client-2" in captured
    assert CANARY.encode() not in captured
    for file in files:
        organisation_file = OrganisationFile.read(file)
        assert b"reward/brief/mean" not in captured  # the template's policy keeps single rewards back
        record = organisation_file.egress_record.read_text()
        assert CANARY not in record
        kinds = [line["answers"] for line in read_lines(organisation_file.egress_record)]
        assert kinds[:8] == ["query.join", "evaluate", "evaluate", "train", "train", "train", "evaluate", "evaluate"]


def test_a_failing_reward_costs_one_update_and_says_only_its_code(federation):
    folder, _, files, _, _ = federation
    (round_line,) = Run.read(folder / "server" / "runs" / "failing").rounds
    assert round_line.refused == {"client-2": "reward"}
    assert sorted(round_line.clients) == ["client-0", "client-1"]
    assert f"{CANARY}-exception" in (files[2].parent / "state" / "logs" / "learner.log").read_text()


def test_the_egress_record_holds_the_hash_of_what_was_sent(federation):
    _, _, files, captured, _ = federation
    record = read_lines(OrganisationFile.read(files[0]).egress_record)
    (delta,) = [f for f in record[3]["fields"] if f["name"] == "vector.vector"]
    assert delta["bytes"] == 4 * delta["shape"][0]
    digests = {hashlib.sha256(captured[i : i + delta["bytes"]]).hexdigest() for i in starts(captured, delta["bytes"])}
    assert delta["sha256"] in digests


def starts(captured, size):
    """Where an array of that many bytes may begin: after Flower's type tag and length."""
    mark = f" {size}".encode()
    found, at = [], captured.find(mark)
    while at >= 0:
        found += range(at, at + 24)
        at = captured.find(mark, at + 1)
    return found


def test_the_operator_sees_who_took_part(federation):
    _, _, _, _, status = federation
    assert status["superlink"] == "up"
    assert sorted(node["name"] for node in status["nodes"]) == [client_name(k) for k in range(CLIENTS)]
    run = status["runs"][0]
    assert (run["state"], run["round"], sorted(run["clients"])) == ("finished", 3, [client_name(k) for k in range(3)])
