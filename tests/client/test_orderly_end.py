"""A process that is asked to end closes what it has open first."""

import os
import signal
import subprocess
import sys
import time

import pytest
from fedgrpo.common.cli.signals import orderly_end
from organisations import organisation_file

LEARNER = """
import sys
from pathlib import Path
from types import SimpleNamespace
from fedgrpo.client.learner.service import daemon
from fedgrpo.client.organisation.settings import OrganisationFile
from fedgrpo.common.messages.frames import Frame

class Learner:
    ready, identity, task_bytes = True, "one", 0
    tracking = SimpleNamespace(close=lambda: print("trackers closed", flush=True))

    def __init__(self, organisation, ledger, keeper=None):
        self.organisation = organisation

    def do(self, job):
        return Frame({})

    def kept(self):
        pass

daemon.JobHandler = Learner
daemon.serve(OrganisationFile.read(Path(sys.argv[1])))
"""
COMMAND = """
import sys, time
from fedgrpo.common.cli import main as root

class Application:
    def __call__(self, prog_name):
        try:
            print("working", flush=True)
            time.sleep(60)
        finally:
            print("closed", flush=True)

root._application = Application
root.main()
"""


def running(code, *arguments):
    """A process that heeds SIGHUP also where these tests run under nohup, which children would inherit."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_learner_that_gets_a_signal_removes_its_socket_and_closes_its_trackers(tmp_path, number):
    own = organisation_file(tmp_path, learner__socket=f"/tmp/fedgrpo-end-{os.getpid()}-{number}.sock")
    learner = running(LEARNER, str(own.file))
    deadline = time.monotonic() + 60
    while not own.socket.exists():
        assert time.monotonic() < deadline
        assert learner.poll() is None
        time.sleep(0.05)
    learner.send_signal(number)
    output, _ = learner.communicate(timeout=30)
    assert output == "trackers closed\n"
    assert learner.returncode == 128 + number
    assert not own.socket.exists()


def test_any_command_that_gets_a_sigterm_unwinds_and_says_so_in_its_status():
    command = running(COMMAND)
    assert command.stdout is not None
    assert command.stdout.readline() == "working\n"
    command.terminate()
    output, _ = command.communicate(timeout=30)
    assert (output, command.returncode) == ("closed\n", 143)


def test_a_signal_that_somebody_else_handles_or_ignores_stays_theirs():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        with orderly_end():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGHUP)
            with pytest.raises(SystemExit) as end:
                signal.raise_signal(signal.SIGTERM)
        assert end.value.code == 143
    finally:
        signal.signal(signal.SIGHUP, before)
