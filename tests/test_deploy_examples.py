"""The units and the container file in examples/deploy: their commands exist, and their syntax holds."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from fedgrpo.common.cli import main as cli

FOLDER = Path(__file__).parent.parent / "examples" / "deploy"
UNITS = sorted(FOLDER.glob("*.service"))
INSTRUCTIONS = {"FROM", "WORKDIR", "COPY", "RUN", "USER", "EXPOSE", "ENTRYPOINT", "CMD", "ENV"}


def directives(unit):
    """{section: [(name, value)]}, with continued lines joined."""
    found, section = {}, None
    for line in unit.read_text().replace("\\\n", " ").splitlines():
        if line.startswith("[") and line.endswith("]"):
            section = found.setdefault(line[1:-1], [])
        elif line and not line.startswith("#"):
            name, sign, value = line.partition("=")
            assert sign, f"{unit.name}: {line}"
            assert re.fullmatch(r"[A-Z][A-Za-z]+", name), f"{unit.name}: {line}"
            section.append((name, value))
    return found


def assert_is_a_command(words):
    """Whether our command line takes these words."""
    group = cli._application()
    for number, word in enumerate(words, start=1):
        command = group.get_command(None, word)
        assert command is not None, f"there is no fedgrpo {' '.join(words[:number])}"
        if not hasattr(command, "get_command"):
            command.make_context(word, list(words[number:]), resilient_parsing=True)
            return
        group = command


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_a_unit_is_whole_and_starts_a_command_that_exists(unit):
    found = directives(unit)
    assert set(found) == {"Unit", "Service", "Install"}
    service = dict(found["Service"])
    assert service["NoNewPrivileges"] == "true"
    assert service["User"] != "root"
    program, *words = shlex.split(service["ExecStart"])
    assert Path(program).name == "fedgrpo"
    assert_is_a_command(words)
    if words[:2] == ["client", "supernode"]:
        flowers = [Path(sys.executable).parent / "flower-supernode", "--help"]
        help_text = subprocess.run(flowers, capture_output=True, text=True, check=True).stdout
        assert [w for w in words if w.startswith("--") and w not in help_text] == []


def test_the_learner_has_no_network_and_the_node_no_data():
    learner = dict(directives(FOLDER / "fedgrpo-learner.service")["Service"])
    node = dict(directives(FOLDER / "fedgrpo-supernode.service")["Service"])
    assert learner["RestrictAddressFamilies"] == "AF_UNIX"
    assert learner["User"] != node["User"]
    assert learner["Group"] == node["Group"]


def test_the_container_file_has_instructions_that_exist_and_commands_that_are_ours():
    lines = [line for line in (FOLDER / "Containerfile").read_text().splitlines() if line and line[0] != "#"]
    assert {line.split()[0] for line in lines} <= INSTRUCTIONS
    assert [line.split()[-1] for line in lines if line.startswith("FROM")] == ["server", "learner"]
    assert lines.count('ENTRYPOINT ["fedgrpo"]') == 2
    for comment in re.findall(r"podman run .* fedgrpo-(?:server|learner) (.*)", (FOLDER / "Containerfile").read_text()):
        assert_is_a_command(shlex.split(comment))
