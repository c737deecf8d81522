"""What may import what: the light layers stay light, and the two sides do not know each other."""

import ast
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from checkout import HEAVY, ROOT

LAYERS = ("common", "server", "client", "simulations")
ONLY_IN = {
    "trl": {
        "client/learner/training/grpo_trainer.py",
        "client/learner/training/trl_config.py",
        "client/learner/training/sft.py",
    },
    "peft": {"client/learner/models/adapted_model.py"},
    "unsloth": {"client/learner/models/unsloth_backend.py"},
    "vllm": {"client/learner/samplers/vllm_engine.py"},
}


def imported(path):
    """Absolute names a file imports, relative ones resolved against its place in the repository."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            yield ".".join([*base, node.module or ""])


@pytest.mark.parametrize(
    ("layer", "forbidden"),
    [
        ("common", ("server", "client", "simulations")),
        ("server", ("client", "simulations")),
        ("client", ("server", "simulations")),
    ],
)
def test_layers_do_not_reach_across(layer, forbidden):
    files = sorted((ROOT / layer).rglob("*.py"))
    assert files
    for path in files:
        names = set(imported(path))
        assert not [n for n in names if n.split(".")[0] in forbidden], path


def rooms():
    """(file, its sub-package, the sub-package of each module it imports), all as dotted names."""
    for layer in LAYERS:
        for path in sorted((ROOT / layer).rglob("*.py")):
            own = path.relative_to(ROOT).parent.parts
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and node.level:
                    base = own[: len(own) - node.level + 1]
                    module = Path(*base, *(node.module or "").split("."))
                    for alias in node.names:
                        place = ROOT / module / alias.name
                        place = place if place.is_dir() or place.with_suffix(".py").exists() else ROOT / module
                        room = place if place.is_dir() else place.parent
                        yield path, ".".join(own), ".".join(room.relative_to(ROOT).parts)


def test_no_two_sub_packages_import_each_other_not_even_by_way_of_others():
    needs: dict[str, set[str]] = {}
    for _, own, other in rooms():
        if own != other:
            needs.setdefault(own, set()).add(other)
    assert len(needs) > 20
    TopologicalSorter(needs).prepare()  # raises CycleError, which names the circle


def test_the_wheel_has_every_package_and_every_file_that_they_read():
    """An editable installation has them all, so nothing else would notice."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    inits = [path for layer in LAYERS for path in (ROOT / layer).rglob("__init__.py")]
    found = {".".join(["fedgrpo", *path.parent.relative_to(ROOT).parts]) for path in inits}
    assert set(setuptools["packages"]) == found | {"fedgrpo"}
    files = [path for layer in LAYERS for path in (ROOT / layer).rglob("*") if path.is_file()]
    data = {path for path in files if path.suffix not in (".py", ".pyc") and path.name != "py.typed"}
    packed = {
        path
        for package, patterns in setuptools["package-data"].items()
        for pattern in patterns
        for path in ROOT.joinpath(*package.split(".")[1:]).glob(pattern)
    }
    assert data - packed == set()


def test_every_sub_package_says_what_belongs_in_it():
    for layer in LAYERS:
        for folder in {path.parent for path in (ROOT / layer).rglob("*.py")}:
            docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
            assert docstring, folder
            assert len(docstring.splitlines()[0]) > 40, folder


@pytest.mark.parametrize("library", ONLY_IN)
def test_each_private_library_is_known_to_the_files_named_for_it(library):
    users = {
        str(path.relative_to(ROOT))
        for layer in LAYERS
        for path in (ROOT / layer).rglob("*.py")
        if any(name.split(".")[0] == library for name in imported(path))
    }
    assert users == ONLY_IN[library]


def test_the_private_names_of_flower_are_in_one_file():
    """What a new version of Flower may break is then one file, which the contract test names."""
    places = (*LAYERS, "benchmarks", "tests")
    files = [path for place in places for path in (ROOT / place).rglob("*.py")]
    users = {str(p.relative_to(ROOT)) for p in files if any(n.startswith("flwr.supercore") for n in imported(p))}
    assert users == {"common/flower_private.py"}


def calls(*names):
    """The product's files that call a function or method of one of these names."""
    for layer in LAYERS:
        for path in (ROOT / layer).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in names:
                    yield str(path.relative_to(ROOT))


def test_a_model_is_loaded_for_a_run_in_one_place_which_keeps_the_order_that_unsloth_demands():
    assert set(calls("Base.load", "import_unsloth")) == {"client/learner/models/load.py"}


def test_a_completion_is_judged_in_one_place():
    users = set(calls("same_answer", "last_number")) - {"client/learner/data/judge.py"}
    assert users == {"client/learner/rewards/extraction.py", "client/learner/rewards/gsm8k.py"}  # rewards of their own


@pytest.mark.parametrize(
    "module",
    [
        "fedgrpo.client.learner.sandbox",
        "fedgrpo.client.commands.rewards",
        "fedgrpo.server.main",
        "fedgrpo.client.main",
        "fedgrpo.common.cli.main",
        "fedgrpo.simulations.study.session",
    ],
)
def test_the_light_side_starts_without_heavy_libraries(module):
    code = f"import sys, {module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.e2e
def test_the_learner_needs_no_flower():
    """Its extra does not bring it, since vLLM needs another FastAPI."""
    code = (
        "import sys; sys.modules['flwr'] = None\n"
        "import fedgrpo.common.cli.main as cli; cli._application()\n"
        "import fedgrpo.client.learner.service.daemon, fedgrpo.client.learner.training.local_learner\n"
        "import fedgrpo.client.commands.check\n"
        "print('fine')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "fine", done.stderr[-2000:]
