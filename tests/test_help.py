"""What `--help` prints, of every command and subcommand, and what the shell completes."""

import inspect
import os
import re
import subprocess
import sys
from typing import get_type_hints

import pytest
from fedgrpo.common.cli import main as cli
from fedgrpo.common.cli.completion import complete_path
from fedgrpo.server.run.completion import complete_run
from typer.models import ArgumentInfo, OptionInfo

FRAME = re.compile(r"[\s│╭╮╰╯─]")


def commands(command, words=()):
    """(words after fedgrpo, the command) of every command and subcommand."""
    yield words, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*words, name))


EVERY = dict(commands(cli._application()))
LEAVES = {words: command for words, command in EVERY.items() if not hasattr(command, "commands")}


@pytest.fixture
def printed(monkeypatch, capsys):
    """The help of a command as it is printed, without frames and white space."""

    def call(words, columns):
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr("sys.argv", ["fedgrpo", *words, "--help"])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert caught.value.code == 0
        return bare(capsys.readouterr().out)

    return call


def bare(text):
    """A text without frames, white space and the tags of headings."""
    return FRAME.sub("", re.sub(r"\[/?bold\]", "", text.replace("\\[", "[")))


def described(command, kind):
    """(name, help) of the parameters of a kind, as their author wrote it in the function's signature."""
    hints = get_type_hints(inspect.unwrap(command.callback), include_extras=True)
    for name, hint in hints.items():
        for info in getattr(hint, "__metadata__", ()):
            if isinstance(info, kind):
                yield name, info.help


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_every_command_has_two_examples(words):
    line = re.compile(rf"^ *fedgrpo {' '.join(words)}\b", re.MULTILINE)
    assert len(line.findall(LEAVES[words].help)) >= 2


def test_there_are_commands_with_arguments_to_look_at():
    assert sum(bool(list(described(command, ArgumentInfo))) for command in LEAVES.values()) > 10


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_every_argument_and_option_is_explained(printed, words):
    text = printed(words, 500)
    for kind in (ArgumentInfo, OptionInfo):
        for name, help_text in described(LEAVES[words], kind):
            assert help_text, f"{name} has no help"
            assert bare(help_text) in text, name


@pytest.mark.parametrize("columns", [500, 80])
@pytest.mark.parametrize("words", EVERY, ids=lambda words: " ".join(words) or "fedgrpo")
def test_a_docstring_is_printed_with_all_its_brackets(printed, words, columns):
    command = EVERY[words]
    written = inspect.getdoc(inspect.unwrap(command.callback)) if words in LEAVES else command.help
    assert written
    assert bare(written) in printed(words, columns)


def test_an_extra_in_brackets_is_not_taken_for_a_style(printed):
    assert "Needsthe[simulation]extra." in printed(("plan",), 500)


@pytest.fixture
def complete(monkeypatch, capsys, tmp_path):
    """What bash would be offered for a line."""
    for name in ("old", "new"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.resolved.toml").touch()
    (tmp_path / "runs" / "notes").mkdir()
    for name in ("mine.toml", "mine.py", "other.txt", ".hidden.toml"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)

    def call(line):
        monkeypatch.setenv("_FEDGRPO_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
        monkeypatch.setattr("sys.argv", ["fedgrpo"])
        with pytest.raises(SystemExit):
            cli.main()
        return capsys.readouterr().out.split()

    return call


@pytest.mark.parametrize(
    ("line", "offers"),
    [
        ("fedgrpo sim", {"simulate"}),
        ("fedgrpo simulate b", {"builtin"}),
        ("fedgrpo plan gs", {"gsm8k"}),
        ("fedgrpo simulate m", {"mine.toml"}),
        ("fedgrpo report runs/", {"runs/old", "runs/new"}),
        ("fedgrpo export runs/o", {"runs/old"}),
        ("fedgrpo evaluate r", {"runs/"}),
        ("fedgrpo simulate --resume runs/n", {"runs/new"}),
        ("fedgrpo simulate --rewards gsm8k;thi", {"gsm8k;think"}),
        ("fedgrpo rewards score m", {"math-verify", "multiple-choice", "mine.py"}),
        ("fedgrpo rewards list json-s", {"json-schema"}),
    ],
)
def test_the_shell_completes_commands_scenarios_runs_and_rewards(complete, line, offers):
    assert offers <= set(complete(line))
    assert not {".hidden.toml", "other.txt", "runs/notes"} & set(complete(line))


def test_paths_are_completed_as_they_are_typed(complete, tmp_path):
    assert complete_path("./mi", ".toml") == ["./mine.toml"]
    assert complete_path(f"{tmp_path}/mi", ".py") == [f"{tmp_path}/mine.py"]
    assert complete_path("nowhere/x", ".toml") == []
    assert set(complete_run("")) == {"runs/old", "runs/new"}
    assert complete_run("runs/no") == ["runs/notes/"]


def test_completion_can_be_installed(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["fedgrpo", "--show-completion", "bash"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 0
    assert "complete -o default -F _fedgrpo_completion fedgrpo" in capsys.readouterr().out


def shell(instruction, words="", number=0):
    """What the program prints when a shell asks it for completions."""
    program = [
        sys.executable,
        "-c",
        "from fedgrpo.common.cli.main import main; import sys; sys.argv[0] = 'fedgrpo'; main()",
    ]
    asked = {"_FEDGRPO_COMPLETE": instruction, "COMP_WORDS": words, "COMP_CWORD": str(number)}
    done = subprocess.run(program, env={**os.environ, **asked}, capture_output=True, text=True, timeout=60)
    return done.stdout


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_the_completion_script_of_a_shell_asks_fedgrpo(name):
    assert "_FEDGRPO_COMPLETE" in shell(f"source_{name}")


@pytest.mark.parametrize(
    "words, expected",
    [("fedgrpo simu", "simulate"), ("fedgrpo partition gsm8", "gsm8k"), ("fedgrpo client sta", "status")],
)
def test_a_shell_completes_commands_and_arguments(words, expected):
    assert expected in shell("complete_bash", words, len(words.split()) - 1).split()
