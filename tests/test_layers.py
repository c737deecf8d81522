"""What may import what: the light layers stay light, and the two sides do not know each other."""

import ast
import subprocess
import sys

import pytest
from checkout import HEAVY, ROOT

ONLY_IN = {
    "trl": {"client/learner/training/grpo_trainer.py", "client/learner/training/sft.py"},
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


@pytest.mark.parametrize("library", ONLY_IN)
def test_each_private_library_is_known_to_the_files_named_for_it(library):
    users = {
        str(path.relative_to(ROOT))
        for layer in ("common", "server", "client", "simulations")
        for path in (ROOT / layer).rglob("*.py")
        if any(name.split(".")[0] == library for name in imported(path))
    }
    assert users == ONLY_IN[library]


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


def test_the_learner_needs_no_flower():
    """Its environment may be one in which flwr cannot be installed: current vLLM wants another FastAPI."""
    code = (
        "import sys; sys.modules['flwr'] = None\n"
        "import fedgrpo.common.cli.main as cli; cli._application()\n"
        "import fedgrpo.client.learner.service.daemon, fedgrpo.client.learner.training.local_learner\n"
        "print('fine')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "fine", done.stderr[-2000:]
