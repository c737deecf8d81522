"""The keeper of a server of our own: nothing that it started outlives it, however it ends."""

import os
import subprocess
import sys
import time

import pytest
from fedgrpo.client.learner.samplers import child_guard

DEAF = (
    "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(os.getpid(), flush=True);"
    "time.sleep(60)"
)
STARTS_IT = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {DEAF!r}])"


def runs(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("then", ["time.sleep(60)", "time.sleep(.5)"], ids=["closed by us", "ended by itself"])
def test_a_process_that_ignores_sigterm_is_ended_with_the_command_that_started_it(then):
    kept = subprocess.Popen(
        [sys.executable, child_guard.__file__, sys.executable, "-c", f"{STARTS_IT}; {then}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert kept.stdout
    assert kept.stdin
    child, started = int(kept.stdout.readline()), time.monotonic()
    assert runs(child)
    if then == "time.sleep(60)":
        kept.stdin.close()
    kept.wait(timeout=30)
    assert time.monotonic() - started < child_guard.GRACE_S / 2  # the command itself hears SIGTERM
    deadline = time.monotonic() + 5
    while runs(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    alive = runs(child)
    if alive:
        os.kill(child, 9)
    assert not alive
