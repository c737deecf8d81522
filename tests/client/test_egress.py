"""The egress record says what happened: number, destination, and how the destination is known."""

import json
import multiprocessing
import os
import subprocess
import sys

import pytest
from fedgrpo.client.relay import destination as place
from fedgrpo.client.relay.destination import Destination, destination
from fedgrpo.client.relay.egress import EgressGate
from fedgrpo.common.messages import wire
from fedgrpo.common.storage.jsonl import append_line, read_lines
from organisations import organisation_file

CONFIGURED = "fed.example.org:8000"


@pytest.fixture
def processes(tmp_path, monkeypatch):
    """Put this process below others in a /proc of its own."""

    def above(*lines):
        numbers = [os.getpid(), *range(900, 900 + len(lines))]
        for number, parent, line in zip(numbers, [*numbers[1:], 1], [("python",), *lines], strict=True):
            folder = tmp_path / "proc" / str(number)
            folder.mkdir(parents=True)
            (folder / "stat").write_text(f"{number} (a (strange) name) S {parent} 1 1 0")
            (folder / "cmdline").write_bytes(b"\0".join(word.encode() for word in line) + b"\0")
        monkeypatch.setattr(place, "PROC", tmp_path / "proc")

    return above


@pytest.mark.parametrize("option", [("--superlink", "10.0.0.9:9000"), ("--superlink=10.0.0.9:9000",)])
def test_messages_go_where_the_running_supernode_is_connected(processes, option):
    processes(("python", "/opt/bin/flwr-clientapp"), ("python", "/opt/bin/flower-supernode", *option), ("sh",))
    assert destination(CONFIGURED) == Destination("10.0.0.9:9000", "supernode")


def test_an_address_that_is_only_configured_is_marked(processes):
    processes(("python", "/opt/bin/flower-superexec", "--superlink", "10.0.0.9:9000"), ("systemd",))
    assert destination(CONFIGURED) == Destination(CONFIGURED, "configured")
    assert destination("") == Destination("unknown", "configured")


def test_a_supernode_that_does_not_name_its_address_leaves_it_as_configured(processes):
    processes(("/opt/bin/flower-supernode", "--insecure"))
    assert destination(CONFIGURED) == Destination(CONFIGURED, "configured")


def test_without_a_proc_the_address_is_as_configured(tmp_path, monkeypatch):
    monkeypatch.setattr(place, "PROC", tmp_path / "none")
    assert destination(CONFIGURED) == Destination(CONFIGURED, "configured")


def test_a_real_process_finds_the_supernode_above_it(tmp_path):
    """A shell script of that name starts Python, as the SuperNode starts the ClientApp."""
    supernode = tmp_path / "flower-supernode"
    ask = "from fedgrpo.client.relay.destination import destination as d; print(d('file:1'))"
    supernode.write_text(f'#!/bin/sh\n{sys.executable} -c "{ask}"\nexit 0\n')
    command = ["/bin/sh", str(supernode), "--superlink", "real.example.org:9"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.strip() == "Destination(address='real.example.org:9', source='supernode')"


def test_a_record_names_the_real_destination_and_warns_where_the_file_has_another(tmp_path, processes, caplog):
    processes(("/opt/bin/flower-supernode", "--superlink", "10.0.0.9:9000"))
    own = organisation_file(tmp_path, flower__superlink=CONFIGURED)
    EgressGate(own).release(wire.pack({}), "train")
    (line,) = read_lines(own.egress_record)
    assert (line["to"], line["to_known_from"]) == ("10.0.0.9:9000", "supernode")
    assert "connected to 10.0.0.9:9000, flower.superlink is fed.example.org:8000" in caplog.text


def numbers(own):
    return [line.get("number") for line in read_lines(own.egress_record)]


def test_messages_are_numbered_without_gaps(tmp_path):
    own = organisation_file(tmp_path)
    for _ in range(3):
        EgressGate(own).release(wire.pack({}), "train")
    assert numbers(own) == [1, 2, 3]
    with own.egress_record.open("a") as file:
        file.write('{"number": 4, "torn')  # a crash: the line is removed, its message never left
    EgressGate(own).release(wire.pack({}), "train")
    assert numbers(own) == [1, 2, 3, 4]


def test_lines_of_an_earlier_version_count(tmp_path):
    own = organisation_file(tmp_path)
    for _ in range(2):
        append_line(own.egress_record, {"to": "x"})
    EgressGate(own).release(wire.pack({}), "train")
    assert numbers(own) == [None, None, 3]


def release_some(file, count):
    from fedgrpo.client.organisation.settings import OrganisationFile

    for _ in range(count):
        EgressGate(OrganisationFile.read(file)).release(wire.pack({"text": "x" * 3000}), "train")


def test_two_processes_never_give_the_same_number(tmp_path):
    own = organisation_file(tmp_path)
    fork = multiprocessing.get_context("fork")
    both = [fork.Process(target=release_some, args=(own.file, 20)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert numbers(own) == list(range(1, 41))
    assert json.loads(own.egress_record.read_text().splitlines()[-1])["answers"] == "train"
