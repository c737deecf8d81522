"""What the doctor finds, and that it says what to do."""

import json
import re
import socket
import subprocess
import sys
import tomllib

import pytest
from checkout import HEAVY, ROOT
from fedgrpo.common.settings.backend import Backend
from fedgrpo.simulations.doctor import environment, machine, versions
from fedgrpo.simulations.doctor.finding import BROKEN, NOTE, OK
from fedgrpo.simulations.doctor.gpu import Gpu, parse

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GOOD = {
    **{name: low + ".0" for name, (low, _) in versions.BOUNDS.items() if name not in ("vllm", "unsloth")},
    **versions.SETS["simulation"],
    "torch": "2.13.0+cpu",
}


def level(findings, name):
    return next(finding.level for finding in findings if finding.name == name)


def test_the_bounds_are_those_of_pyproject():
    extras = PROJECT["optional-dependencies"]
    stated = [*PROJECT["dependencies"], *(need for extra in versions.ROLES for need in extras[extra])]
    ours = set()
    for name, (low, high) in versions.BOUNDS.items():
        refused = "".join(f",!={v}" for n, v in versions.REFUSED if n == name)
        ours.add(f"{name}>={low}{refused}" + (f",<{high}" if high else ""))
    assert ours == set(stated)


def test_the_tested_set_is_recognised():
    findings = versions.check_versions(GOOD)
    assert {finding.level for finding in findings} == {OK}
    assert "'simulation'" in findings[-1].said


def test_each_documented_set_is_recognised_in_an_environment_that_has_just_it():
    for name, pins in versions.SETS.items():
        base = {package: low + ".0" for package, (low, _) in versions.BOUNDS.items() if package in versions.BASE}
        learner = {package: GOOD[package] for package in versions.LEARNER if "trl" in pins}
        findings = versions.check_versions({**base, **learner, **pins})
        assert findings[-1].level == OK, name
        assert BROKEN not in {finding.level for finding in findings}, name
        assert versions.SETS[findings[-1].said.split("'")[1]] == pins


def test_the_page_on_installation_shows_the_tested_sets():
    lines = (ROOT / "docs" / "install.md").read_text().splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("| extras | flwr"))
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start : start + 9]]
    shown = {name: dict(zip(header, cells, strict=True)) for cells in rows for name in cells[0].split("`")[1::2]}
    for name, pins in versions.SETS.items():
        if name != "vllm":  # a part of the set below it
            assert pins.items() <= shown[name].items(), name


def test_the_tests_run_on_the_first_set_and_its_extras_exist():
    pinned = dict(line.strip().split("==") for line in (ROOT / "constraints.txt").read_text().splitlines()[1:])
    assert versions.SETS["simulation"].items() <= pinned.items()
    extras = PROJECT["optional-dependencies"]
    assert all(extra in extras for name in versions.SETS for extra in name.split(","))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"flwr": "1.40.0"}, "flwr"),
        ({"flwr": "1.43.0"}, "flwr"),
        ({"vllm": "0.30.0"}, "vllm"),
        ({"trl": "1.15.0"}, "trl"),
        ({"trl": "1.17.0"}, "trl"),
        ({"transformers": "5.16.9"}, "transformers"),
        ({"unsloth": "2026.10.7"}, "unsloth's set"),
        ({"vllm": "0.31.0", "fastapi": "0.136.1"}, "vllm beside flwr"),
    ],
)
def test_what_does_not_go_together_is_broken_and_says_what_to_install(change, name):
    findings = versions.check_versions({**GOOD, **change})
    (found,) = [f for f in findings if f.name == name]
    assert found.level == BROKEN
    assert "pip install" in found.to_do
    named = re.findall(r"backend\.([a-z-]+)", found.to_do)
    assert all(hasattr(Backend(), setting.replace("-", "_")) for setting in named)


def test_missing_packages_matter_by_what_is_there():
    def without(*names):
        return versions.check_versions({name: v for name, v in GOOD.items() if name not in names})

    assert level(without(*versions.LEARNER), "training") == NOTE
    assert level(without("peft"), "training") == BROKEN
    assert level(without("flwr"), "flwr") == NOTE
    assert level(without("flwr", "torch"), "training") == BROKEN
    assert level(without("flwr", *versions.LEARNER), "version set") == OK
    assert level(without("numpy"), "numpy") == BROKEN


def test_an_environment_beside_the_sets_hears_what_differs():
    found = versions.check_versions({**GOOD, "transformers": "5.20.0"})[-1]
    assert found.level == NOTE
    assert "5.20.0 and not 5.23.0" in found.said
    assert "transformers==5.23.0" in found.to_do
    found = versions.check_versions({**GOOD, "vllm": "0.33.0"})[-1]
    assert "flwr, trl, vllm in one environment" in found.said


def test_a_gpu_is_told_with_memory_driver_and_bfloat16():
    (old,) = parse("Tesla T4, 15360, 3, 550.54.15, 7.5\nnot a GPU\n")
    assert old.memory_bytes == 15360 << 20
    findings = list(machine.check_gpus([old], {"torch": "2.13.0+cpu"}))
    assert (findings[0].level, "no bfloat16" in findings[0].said) == (NOTE, True)
    assert level(findings, "PyTorch") == NOTE
    new = Gpu("NVIDIA L4", 23034 << 20, 0, "550.54", 8.9)
    assert level(machine.check_gpus([new], {"torch": "2.13.0"}), "GPU") == OK


def test_a_port_that_is_taken_is_noted(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(machine, "PORTS", {port: "test"})
        assert [finding.level for finding in machine.check_ports()] == [NOTE]
    assert [finding.level for finding in machine.check_ports()] == [OK]


def test_telemetry_that_is_on_is_noted():
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "HF_HUB_DISABLE_TELEMETRY": "1", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    assert environment.check_telemetry(quiet, {}).level == OK
    assert "FLWR_TELEMETRY_ENABLED=1" in environment.check_telemetry({**quiet, "FLWR_TELEMETRY_ENABLED": "1"}, {}).said
    assert environment.check_telemetry(quiet, {"vllm": "0.31.0"}).level == NOTE
    assert environment.check_telemetry({**quiet, "DO_NOT_TRACK": "1"}, {"vllm": "0.31.0"}).level == OK


def test_the_hub_is_asked_for_a_second_at_most_and_not_offline():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        mute = {"HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        found, theirs = environment.check_hub(mute, offline=False)
        assert (found.level, theirs) == (NOTE, None)
        assert "Timeout" in found.said
        assert environment.check_hub(mute, offline=True)[0].level == OK


@pytest.mark.parametrize(
    ("now", "theirs", "expected"),
    [(2e9, None, OK), (2e9, 2e9 + 10, OK), (2e9, 2e9 + 500, BROKEN), (1e9, None, BROKEN)],
)
def test_a_clock_that_is_off_is_broken(now, theirs, expected):
    assert environment.check_clock(now, theirs).level == expected


def test_the_command_imports_nothing_heavy_and_its_status_says_whether_something_is_broken():
    code = (
        f"import sys; sys.modules |= dict.fromkeys({sorted(HEAVY)!r})\n"
        "from fedgrpo.simulations.doctor import versions\n"
        "if sys.argv.pop() == 'break': versions.BOUNDS = {'numpy': ('999', '')}\n"
        "from fedgrpo.common.cli.main import main; main()"
    )
    for word, status in (("leave", 0), ("break", 1)):
        command = [sys.executable, "-c", code, "doctor", "--offline", "--format", "json", word]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = json.loads(done.stdout.splitlines()[-1])
        assert (done.returncode, found["healthy"]) == (status, status == 0), done.stderr
        assert {"name", "level", "said", "to_do"} == found["findings"][0].keys()
