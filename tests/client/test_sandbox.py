"""Hostile code stays in the sandbox, and nothing of it is left. Each probe runs at each level that this machine has."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import probes
import pytest
from fedgrpo.client.learner import sandbox
from fedgrpo.client.learner.sandbox import Limits, Raised, Returned, calls, levels, process
from fedgrpo.common.errors import ConfigError
from probes import ENDED, OPEN_TO_ALL, OWN_NETWORK, REFUSED

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sandboxes are Linux's")]
QUICK = Limits(seconds=10.0, memory_bytes=256 << 20)
SHORT = Limits(seconds=0.5, memory_bytes=256 << 20)
REFUSALS = {"PermissionError", "FileNotFoundError", "NotADirectoryError", "BlockingIOError", "OSError", "gaierror"}
REFUSALS |= {"MemoryError", "RecursionError", "RuntimeError", "SystemExit", "TypeError", "ValueError"}


def found_levels():
    """name -> the sandbox, or why this machine has none of the name."""
    found = {"bubblewrap": "bubblewrap: apt-get install bubblewrap", "landlock": "no Landlock here"}
    for candidate in levels._candidates():
        if isinstance(candidate, str):
            found["bubblewrap" if "bubblewrap" in candidate else "landlock"] = candidate
        elif isinstance(found[candidate.name], str):
            found[candidate.name] = levels._fault(candidate) or candidate
    return found


MARK = f"of-the-test-{os.getpid()}"
LEVELS = found_levels()


@pytest.fixture(params=LEVELS)
def level(request, monkeypatch):
    """A level, used by all that follows; skipped, with the reason, where the machine cannot give it."""
    found = LEVELS[request.param]
    if isinstance(found, str):
        pytest.skip(found)
    marked = replace(found, command=(*found.command, MARK))
    monkeypatch.setattr(calls, "best", lambda: marked)
    return request.param


@pytest.fixture(scope="module")
def spot():
    """A folder that anyone may read and write, whoever runs the tests."""
    folder = Path(tempfile.mkdtemp(prefix="fedgrpo-spot-"))
    (folder / "secret").write_text("canary")
    folder.chmod(0o777)
    (folder / "secret").chmod(0o666)
    yield folder
    assert sorted(path.name for path in folder.iterdir()) == ["secret"]
    assert (folder / "secret").read_text() == "canary"
    assert (folder / "secret").stat().st_mode & 0o777 == 0o666
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def port():
    """A port, an abstract socket and a datagram socket that would be reached, were there a network."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0fedgrpo-{server.getsockname()[1]}")
        abstract.listen()
        yield server.getsockname()[1]


def probe(body, spot, port, limits=QUICK, **options):
    code = f"def probe(spot, port, parent):\n    {body}\n"
    arguments = f'["{spot}", {port}, {os.getpid()}]'
    (outcome,) = sandbox.call(code, "probe", [arguments], limits=limits, **options)
    return outcome


def running():
    """Processes of the sandboxes that these tests started."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and MARK.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("intent", REFUSED)
def test_what_it_may_not_do_is_refused(level, spot, port, intent):
    if intent in OWN_NETWORK and not LEVELS[level].seccomp:
        pytest.skip("a network that leads nowhere is open where system calls are not filtered (x86-64 only)")
    outcome = probe(REFUSED[intent], spot, port)
    assert isinstance(outcome, Raised), outcome
    assert outcome.error in REFUSALS


@pytest.mark.parametrize("intent", ENDED)
def test_what_does_not_return_is_ended_in_time(level, spot, port, intent):
    body, said = ENDED[intent]
    limits = SHORT if said == "TimeLimit" else QUICK
    start = time.monotonic()
    assert probe(body, spot, port, limits) == Raised(said)
    assert time.monotonic() - start < limits.seconds + process.GRACE_S


@pytest.mark.parametrize("intent", OPEN_TO_ALL)
def test_the_probes_work_where_there_is_no_sandbox(monkeypatch, port, intent):
    monkeypatch.setattr(calls, "best", lambda: "none: this test")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        (Path(folder) / "secret").write_text("canary")
        body = REFUSED[intent]
        assert isinstance(probe(body, folder, port, unsafe=True), Returned)


def test_values_come_back_as_json_says_them(level):
    code = "def f(x, y=2):\n    return (x, {'a': y, 1: None}, 'ü')\n"
    assert sandbox.call(code, "f", ["[1]", "[1.5, true]", "[]"]) == [
        Returned([1, {"a": 2, "1": None}, "ü"]),
        Returned([1.5, {"a": True, "1": None}, "ü"]),
        Raised("TypeError"),
    ]


def test_an_argument_that_one_call_changes_is_whole_for_the_next(level):
    code = "seen = []\ndef f(items):\n    items.append(len(seen)); seen.append(0)\n    return items\n"
    assert sandbox.call(code, "f", ["[[]]", "[[]]"]) == [Returned([0]), Returned([1])]


def test_code_that_fails_fails_every_call(level):
    assert sandbox.call("1 / 0", "f", ["[]"] * 2) == [Raised("ZeroDivisionError")] * 2
    assert sandbox.call("def g(): pass", "f", ["[]"]) == [Raised("KeyError")]
    assert sandbox.call("def f(:", "f", ["[]"]) == [Raised("SyntaxError")]
    assert isinstance(sandbox.call("\0\ud800", "f", ["[]"])[0], Raised)
    assert sandbox.call("x" * 200_000, "f", ["[]"]) == [Raised("CodeLimit")]


def test_what_is_printed_is_lost_and_does_not_count(level, capfd):
    code = "import sys\ndef f():\n    print('[[41]]' * 100_000); sys.stderr.write('x' * 10**6)\n    return 42\n"
    assert sandbox.call(code, "f", ["[]"]) == [Returned(42)]
    assert capfd.readouterr() == ("", "")


def test_the_environment_of_the_learner_is_not_there(level, monkeypatch):
    monkeypatch.setenv("FEDGRPO_CANARY", "canary")
    code = "import os, sys\ndef f():\n    return [dict(os.environ), sys.argv]\n"
    (outcome,) = sandbox.call(code, "f", ["[]"])
    assert isinstance(outcome, Returned)
    assert "canary" not in repr(outcome)


def test_files_that_the_learner_has_open_are_not_there(level, tmp_path):
    (tmp_path / "secret").write_text("canary")
    with (tmp_path / "secret").open() as file:
        os.set_inheritable(file.fileno(), True)
        code = "import os\ndef f():\n    return [n for n in range(3, 32) if open_(n)]\ndef open_(n):\n    try:\n"
        code += "        return bool(os.fstat(n))\n    except OSError:\n        return False\n"
        (outcome,) = sandbox.call(code, "f", ["[]"])
    assert isinstance(outcome, Returned)
    assert len(outcome.value) <= 2  # the pipe, and what /dev/null was opened as


def test_two_runs_share_nothing(level):
    code = "def f():\n    import os\n    seen = os.path.exists('/tmp/mark')\n    try:\n        open('/tmp/mark', 'w')\n"
    code += "    except OSError: pass\n    return seen\n"
    assert [sandbox.call(code, "f", ["[]"])[0] for _ in range(2)] == [Returned(False)] * 2


def test_nothing_is_left_after_runs_side_by_side(level, spot, port):
    before, open_before = set(running()), len(os.listdir("/proc/self/fd"))
    bodies = ["return 1", "while True: pass", "import os; os._exit(1)", "import time; time.sleep(60)"] * 2
    threads = [threading.Thread(target=probe, args=(body, spot, port, SHORT)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not set(running()) - before
    assert len(os.listdir("/proc/self/fd")) == open_before


ORPHANS = """
import ctypes, os, sys
from fedgrpo.client.learner import sandbox
from fedgrpo.client.learner.sandbox import Limits, calls
from test_sandbox import LEVELS
calls.best = lambda: LEVELS[sys.argv[1]]
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # orphans of what this process starts become its children
for body in ("return 1", "while True: pass", "import os; os._exit(1)", "import os; os.abort()"):
    sandbox.call("def f():\\n    " + body, "f", ["[]"], limits=Limits(seconds=0.5))
try:
    print("left:", os.waitpid(-1, os.WNOHANG))
except ChildProcessError:
    print("nothing")
"""


def test_no_zombie_is_left_to_the_first_process_of_a_container(level):
    """Which reaps nothing where it is the learner itself."""
    command = [sys.executable, "-c", ORPHANS, level]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(Path(probes.__file__).parent), *sys.path]),
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.strip() == "nothing", done.stderr


def test_without_a_sandbox_code_is_refused_unless_somebody_says_unsafe(monkeypatch):
    monkeypatch.setattr(calls, "best", lambda: "none: no kernel of this world")
    with pytest.raises(ConfigError, match=r"no sandbox .*\(no kernel of this world\)\. Install bubblewrap"):
        sandbox.call("def f(): return 1", "f", ["[]"])
    assert sandbox.call("def f(): return 1", "f", ["[]"], unsafe=True) == [Returned(1)]


def test_the_level_is_found_by_trying(monkeypatch):
    levels.best.cache_clear()
    try:
        first = next((name for name, found in LEVELS.items() if not isinstance(found, str)), "none: ")
        assert sandbox.level().startswith(first)
        monkeypatch.setattr(levels, "_candidates", lambda: iter([levels.unsandboxed(), "no other"]))
        levels.best.cache_clear()
        assert sandbox.level().startswith("none: none does not contain what it runs")
        assert sandbox.level().endswith("no other")
    finally:
        levels.best.cache_clear()


@pytest.mark.slow
def test_thousands_of_runs_leave_nothing_behind(level):
    """The count is in FEDGRPO_SANDBOX_RUNS; benchmarks/sandbox.py makes 10,000 and measures their speed."""
    before, open_before = set(running()), len(os.listdir("/proc/self/fd"))
    for number in range(int(os.environ.get("FEDGRPO_SANDBOX_RUNS", "1000"))):
        assert sandbox.call("def f(x): return x", "f", [f"[{number}]"]) == [Returned(number)]
    assert not set(running()) - before
    assert len(os.listdir("/proc/self/fd")) == open_before
