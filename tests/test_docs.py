"""The documentation against the repository: links, paths, commands and the list of modules."""

import re
import shlex
import tomllib
from functools import cache

import pytest
from checkout import ROOT
from fedgrpo.client.learner.rewards import BUILT_IN, SETS
from fedgrpo.common.cli import main as cli
from fedgrpo.common.messages.metric_names import PRIVATE_METRICS, TRAIN_METRICS

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
LAYERS = ("common", "server", "client", "simulations", "fedgrpo")
TOPS = (*LAYERS, "tests", "benchmarks", "docs", "examples")
LINK = re.compile(r"""(?:\]\(|<img src=")([^)"\s]+)""")
CODE = re.compile(r"`([^`\n]+)`")
PATH = re.compile(rf"(?:{'|'.join(TOPS)})(?:/[\w.-]+)+/?")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SECTION = re.compile(r"^### `([\w/]+/)`.*?\n(.*?)(?=^##|\Z)", re.MULTILINE | re.DOTALL)
MODULE = re.compile(r"^- `([\w.]+\.py)`: \S", re.MULTILINE)


def without_fences(text):
    return FENCE.sub("", text)


def anchors(page):
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", without_fences(page.read_text()), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)
    return set(plain)


def links(page):
    return [target for target in LINK.findall(without_fences(page.read_text())) if "://" not in target]


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_relative_link_leads_to_a_file_and_every_anchor_to_a_heading(page):
    for target in links(page):
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_path_in_backticks_exists(page):
    for code in CODE.findall(without_fences(page.read_text())):
        for word in code.split():
            path = word.partition("::")[0].strip(",:;")
            if PATH.fullmatch(path) and "NAME" not in path:
                assert (ROOT / path).exists(), path


@cache
def application():
    return cli._application()


def commands(text):
    """Each `fedgrpo ...` call of the fenced shell blocks and of code in backticks, as words."""
    blocks = [body.replace("\\\n", " ") for kind, body in FENCE.findall(text) if kind in ("bash", "sh", "")]
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    for line in [*lines, *CODE.findall(without_fences(text))]:
        for call in re.split(r"&&|\||;(?=\s)", line.partition(" #")[0]):
            found = re.match(r"\s*(?:\S*/)?fedgrpo (?=[a-z-])(.*)", call)
            if found:
                yield shlex.split(found[1].partition(" < ")[0])


def check_call(words):
    """Whether the command exists, and has the options; values are not looked at."""
    command, rest = application(), list(words)
    while hasattr(command, "commands") and rest and not rest[0].startswith(("-", "...")):
        name = rest.pop(0)
        assert name in command.commands, f"fedgrpo {' '.join(words)}: there is no command {name}"
        command = command.commands[name]
    if command.context_settings.get("ignore_unknown_options"):
        return  # they are another program's: tests/test_deploy_examples.py
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for option in (word.partition("=")[0] for word in rest if word.startswith("--")):
        assert option in known | {"--help"}, f"fedgrpo {' '.join(words)}: there is no option {option}"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_command_and_option_that_is_shown_exists(page):
    for words in commands(page.read_text()):
        check_call(words)


def test_a_wrong_link_command_or_option_would_be_noticed():
    (words,) = commands("```bash\n.venv/bin/fedgrpo simulate gsm8k --data DIR   # real problems\n```")
    assert words == ["simulate", "gsm8k", "--data", "DIR"]
    check_call(words)
    for wrong in (["simulat"], ["simulate", "--round", "3"], ["server", "sumbit"], ["client", "up", "--dry"]):
        with pytest.raises(AssertionError, match="there is no"):
            check_call(wrong)


def test_architecture_names_every_module_and_no_other():
    text = (ROOT / "docs" / "architecture.md").read_text()
    listed = {folder + name for folder, body in SECTION.findall(text) for name in MODULE.findall(body)}
    files = [path for layer in LAYERS for path in (ROOT / layer).rglob("*.py")]
    there = {str(path.relative_to(ROOT)) for path in files}
    optional = {name for name in there if name.endswith("/__init__.py")}
    assert listed - there == set()
    assert there - optional - listed == set()


def test_the_run_folders_page_has_every_metric_that_clients_report():
    text = (ROOT / "docs" / "run-folder.md").read_text()
    rows = re.findall(r"^\| `(\w+/)` \| ([^|]+) \|", text, re.MULTILINE)
    assert [area + name for area, names in rows for name in CODE.findall(names)] == [*TRAIN_METRICS, *PRIVATE_METRICS]


def test_the_page_of_rewards_has_a_row_for_each_built_in_reward_and_each_set():
    text = (ROOT / "docs" / "rewards.md").read_text()
    section = re.search(r"^## Which one\n(.*?)(?=^## )", text, re.MULTILINE | re.DOTALL)[1]
    rows = [CODE.findall(line) for line in section.splitlines() if line.startswith("| ")]
    assert {*BUILT_IN, *SETS} - {name for row in rows for name in row} == set()


def test_the_index_links_every_page_of_the_documentation():
    linked = {(ROOT / "docs" / target.partition("#")[0]).resolve() for target in links(ROOT / "docs" / "README.md")}
    assert set((ROOT / "docs").glob("*.md")) - linked == {ROOT / "docs" / "README.md"}


VIEWERS = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio", "mlflow": "mlflow"}
"""Program of a tracker -> the package that brings all of its commands (mlflow-skinny's has no server)."""


def programs(text):
    """The tracker programs that a page calls, with an argument, in its shell blocks and in backticks."""
    blocks = [body for kind, body in FENCE.findall(text) if kind in ("bash", "sh", "")]
    calls = [line.split() for block in blocks for line in block.splitlines()]
    calls += [code.split() for code in CODE.findall(without_fences(text))]
    return {words[0] for words in calls if len(words) > 1 and words[0] in VIEWERS}


def test_every_trackers_command_of_a_page_comes_with_the_extra_or_is_installed_on_that_page():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    packages = {re.split(r"[<>=!\[]", requirement)[0] for requirement in extras["trackers"]}
    pins = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert {package.lower() for package in packages} <= pins
    seen = set()
    for page in PAGES:
        text = page.read_text()
        for program in programs(text):
            package = VIEWERS[program]
            assert package in packages or f"`pip install {package}`" in text, (page.name, program)
            seen.add(program)
    assert seen >= {"tensorboard", "wandb", "trackio", "mlflow"}
